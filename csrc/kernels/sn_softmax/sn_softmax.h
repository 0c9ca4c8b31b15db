// sn-softmax, kernel interface: raw pointers and sizes, no PyTorch.
//
// Every tensor is contiguous and seen as [outer, size, inner]; a row is the `size` elements that
// share (o, i), and its index is o * inner + i.
//
//   forward   p  = softmax(a / t)                                  (Algorithm 1, Eq. 3)
//             H  = -sum p log p                                    (Eq. 13, optional)
//   backward  da = J_t (g - gH z) / t  +  J_st g / st              (Eq. 8)
//             J_x v = p_x * (v - <p_x, v>),  z = (a - max a) / t
//
// gH is the gradient of H; H is differentiated exactly, so the smooth term does not see it.
// Arithmetic is float, or double for double tensors ("opmath"); H and gH have the opmath type.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace snsoftmax {

/// One temperature for all rows, or one per row.
struct Temperature {
  double value = 1.0;          ///< used where data is null
  const void* data = nullptr;  ///< opmath values, on the device of the tensors
  int64_t stride = 0;          ///< row r reads data[r * stride]; 0 = a single value
};

enum class Smooth : int {
  kNone,      ///< ordinary softmax(a / t)
  kScaled,    ///< st = scale * t
  kAbsolute,  ///< st = smooth_temperature
};

struct SNSoftmaxArgs {
  DType dtype = DType::kFloat32;
  int64_t outer = 0;
  int64_t size = 0;
  int64_t inner = 1;
  Temperature temperature;
  Smooth smooth = Smooth::kNone;
  double scale = 0.0;
  Temperature smooth_temperature;
  bool past_caches = false;  ///< CPU: write the result with stores that bypass the caches
};

/// Rows [begin, end). `entropy` may be null.
void sn_softmax_forward_cpu(const SNSoftmaxArgs& args, const void* logits, void* probs,
                            void* entropy, int64_t begin, int64_t end);

/// Rows [begin, end). `grad` or `grad_entropy` may be null (a zero gradient).
void sn_softmax_backward_cpu(const SNSoftmaxArgs& args, const void* grad, const void* grad_entropy,
                             const void* logits, void* grad_logits, int64_t begin, int64_t end);

/// Bytes of device scratch that the CUDA calls below need; 0 in every regime that fits a block.
size_t sn_softmax_workspace_cuda(const SNSoftmaxArgs& args);

/// All rows, on `stream` (a cudaStream_t). Returns null, or a message where the launch failed.
const char* sn_softmax_forward_cuda(const SNSoftmaxArgs& args, const void* logits, void* probs,
                                    void* entropy, void* workspace, void* stream);

const char* sn_softmax_backward_cuda(const SNSoftmaxArgs& args, const void* grad,
                                     const void* grad_entropy, const void* logits,
                                     void* grad_logits, void* workspace, void* stream);

}  // namespace snsoftmax
