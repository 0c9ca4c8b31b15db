// Depthwise convolution, kernel interface: raw pointers and sizes, no PyTorch.
//
//   y[h, w, c] = sum_{i, j} x[stride h + dilation i - padding, stride w + dilation j - padding, c]
//                           k[i, j, c]
//
// with padding = dilation (kernel - 1) / 2, kernel 3 or 5. Maps are dense
// [images, height, width, channels] of float, double or bfloat16, on CUDA also float16; kernels are
// [channels, kernel, kernel] of the opmath type. Arithmetic is float, or double for double maps.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "depthwise/depthwise_math.h"

namespace snsoftmax {

struct DepthwiseArgs {
  DType dtype = DType::kFloat32;  ///< of the maps
  int64_t height = 0;             ///< of x
  int64_t width = 0;
  int64_t channels = 0;
  int64_t kernel = 3;
  int64_t stride = 1;
  int64_t dilation = 1;

  int64_t padding() const { return depthwise_padding(kernel, dilation); }
  int64_t out_height() const { return depthwise_results(height, stride); }
  int64_t out_width() const { return depthwise_results(width, stride); }
};

/// y of images [begin, end).
void depthwise_forward_cpu(const DepthwiseArgs& args, const void* x, const void* weight, void* y,
                           int64_t begin, int64_t end);

/// dx of images [begin, end).
void depthwise_backward_map_cpu(const DepthwiseArgs& args, const void* grad, const void* weight,
                                void* grad_map, int64_t begin, int64_t end);

/// The contribution of images [begin, end) to dk, in double, [channels, kernel, kernel].
void depthwise_backward_weight_cpu(const DepthwiseArgs& args, const void* grad, const void* x,
                                   double* grad_weight, int64_t begin, int64_t end);

// ---- CUDA: null, or what is wrong; `stream` is a cudaStream_t. Never synchronises. ----

const char* depthwise_forward_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                   const void* weight, void* y, void* stream);

const char* depthwise_backward_map_cuda(const DepthwiseArgs& args, int64_t images, const void* grad,
                                        const void* weight, void* grad_map, void* stream);

/// How many parts the gradient of the weight is summed in.
int64_t depthwise_parts_cuda(const DepthwiseArgs& args, int64_t images);

/// dk, of the opmath type, the same bits every time; `parts` is memory for
/// depthwise_parts_cuda x channels x kernel x kernel. Writes nothing where the map is empty.
const char* depthwise_backward_weight_cuda(const DepthwiseArgs& args, int64_t images,
                                           const void* grad, const void* x, double* parts,
                                           void* grad_weight, void* stream);

}  // namespace snsoftmax
