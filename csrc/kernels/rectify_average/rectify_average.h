// What leaves a node of the supernet, kernel interface: raw pointers and sizes, no PyTorch.
//
//   rectified = max(x, 0)
//   averaged  = 3x3 average of x, stride 1, padding not counted
//
// and the gradient of x, where nodes n read x itself with weight v_n, nodes m read its average with
// weight u_m, and operations j read rectified:
//
//   dx = sum_n v_n g_n + [rectified > 0] sum_j g_j + A^T (sum_m u_m g_m)
//
// with A^T g the 3x3 sum of g / count. The gradients of the readers are taken as they are, so that
// nobody has to write their weighted sums. Maps are dense [images, height, width, channels]; a row
// is one (image, height). Arithmetic is float, or double for double maps.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace snsoftmax {

struct RowsArgs {
  DType dtype = DType::kFloat32;  ///< float32, float64 or bfloat16
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
};

/// A number in the device's memory at `data`, or `value` where that is null.
struct Weight {
  const void* data = nullptr;
  DType dtype = DType::kFloat64;
  double value = 1.0;
};

/// The gradients of `count` readers. The arrays are the host's, read before a call returns; the
/// weights of maps on a CPU are values.
struct Readers {
  const void* const* maps = nullptr;
  const Weight* weights = nullptr;  ///< null: all 1
  int64_t count = 0;
};

/// Rows [begin, end); an output may be null.
void rectify_average_cpu(const RowsArgs& args, const void* x, void* rectified, void* averaged,
                         int64_t begin, int64_t end);

/// Rows [begin, end) of dx; all rows of the gradients are read. `rectified` may be null where
/// nothing reads it.
void rectify_average_backward_cpu(const RowsArgs& args, const void* rectified,
                                  const Readers& of_identity, const Readers& of_rectified,
                                  const Readers& of_averaged, void* grad, int64_t begin,
                                  int64_t end);

// ---- CUDA: all rows of `images` images in one launch on `stream` (a cudaStream_t), or one for
// each kMaxReadersCuda readers. They return null, or a message where a launch failed. Weights are
// read by the kernel, sums have a fixed order: a call can be captured, same input, same bits. ----

constexpr int64_t kMaxReadersCuda = 64;

const char* rectify_average_cuda(const RowsArgs& args, int64_t images, const void* x,
                                 void* rectified, void* averaged, void* stream);

const char* rectify_average_backward_cuda(const RowsArgs& args, int64_t images,
                                          const void* rectified, const Readers& of_identity,
                                          const Readers& of_rectified, const Readers& of_averaged,
                                          void* grad, void* stream);

}  // namespace snsoftmax
