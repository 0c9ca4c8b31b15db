// What leaves a node of the supernet, kernel interface: raw pointers and sizes, no PyTorch.
//
//   rectified = max(x, 0)
//   averaged  = 3x3 average of x, stride 1, padding not counted
//
// and the gradient of the sum of x, rectified and averaged, each with its own gradient:
//
//   dx = g_identity + [rectified > 0] sum_j g_rectified_j + A^T g_averaged
//
// with A^T g the 3x3 sum of g / count; every reader j of the rectified map has its own gradient.
// Maps are dense [images, height, width, channels]; a row is one (image, height). Any output may be
// null, and so may g_identity and g_averaged. Arithmetic is float, or double for double maps.
#pragma once

#include <cstdint>

#include "sn_softmax.h"

namespace snsoftmax {

struct RowsArgs {
  DType dtype = DType::kFloat32;  ///< float32, float64 or bfloat16
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
};

/// Rows [begin, end).
void rectify_average_cpu(const RowsArgs& args, const void* x, void* rectified, void* averaged,
                         int64_t begin, int64_t end);

/// Rows [begin, end) of dx; all rows of the gradients are read.
void rectify_average_backward_cpu(const RowsArgs& args, const void* rectified,
                                  const void* grad_identity, const void* const* grad_rectified,
                                  int64_t readers, const void* grad_averaged, void* grad,
                                  int64_t begin, int64_t end);

}  // namespace snsoftmax
