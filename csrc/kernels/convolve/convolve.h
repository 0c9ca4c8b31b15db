// 1x1 and 3x3 convolutions that read a map together, kernel interface: raw pointers and sizes, no
// PyTorch.
//
// 3x3 ones of stride 1 use Winograd's forms: an output tile of m x m pixels is A^T [(G w G^T) *
// (B^T d B)] A with d the (m + 2)^2 input pixels around it (Lavin & Gray, 2016). F(4x4, 3x3), of
// float32 and float64 maps, needs 36 products for 16 pixels instead of 144; F(2x2, 3x3), of
// bfloat16, whose roundings the larger tile would multiply, 16 for 4 instead of 36. The products of
// a block of tiles with all channels are a matrix product for each "point" of a transformed tile.
// Convolutions of one map share its transform, and their gradients of it are summed before they
// are transformed back. A 1x1 convolution is the same with tiles of one pixel and one point, where
// nothing is transformed. Those of stride 2 have tiles of 2x2 pixels for one of a result, and a
// point for each tap: direct sums.
//
// Maps are dense [images, height, width, channels] of float, double or bfloat16, borders are padded
// with zeros. Kernels are [outputs, kernel, kernel, inputs], as channels_last tensors are, and of
// opmath (double for double maps, else float), their gradients too. Numbers of channels are
// multiples of kConvolveChannels.
//
// Of bfloat16 maps the transformed tiles and kernels are rounded to bfloat16 and their products
// summed in float: about 1.8 times the error of rounding kernels and results alone. Of float32 maps
// the error is 2.4 times that of a direct sum.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace snsoftmax {

constexpr int64_t kConvolveChannels = 16;

struct ConvolveArgs {
  DType dtype = DType::kFloat32;  ///< of the maps: float32, float64 or bfloat16
  int64_t images = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t inputs = 0;   ///< channels of x
  int64_t outputs = 0;  ///< channels of each y
  int64_t edges = 1;    ///< how many convolutions read x
  int64_t kernel = 3;   ///< 1 or 3
  int64_t stride = 1;   ///< 1 or 2
  bool adds = false;    ///< 1x1 ones add to the gradient of the map, which another has begun

  /// Results along `size` pixels.
  int64_t strided(int64_t size) const { return (size + stride - 1) / stride; }

  /// Pixels of x along a tile.
  int64_t side() const {
    if (stride == 2 || kernel == 1) return stride;
    return dtype == DType::kBFloat16 ? 2 : 4;
  }
  int64_t points() const {
    return stride == 2 || kernel == 1 ? kernel * kernel : (side() + 2) * (side() + 2);
  }
  int64_t across() const { return (width + side() - 1) / side(); }
  int64_t down() const { return (height + side() - 1) / side(); }
  int64_t tiles() const { return images * down() * across(); }
  int64_t kernel_values() const { return points() * inputs * outputs * edges; }
};

/// Transforms the kernels of blocks [begin, end) of kConvolveChannels of the edges * outputs output
/// channels, for convolve_forward_cpu or convolve_backward_map_cpu. `packed` has kernel_values()
/// values of the maps' type.
void convolve_pack_cpu(const ConvolveArgs& args, const void* const* weights, bool backward,
                       void* packed, int64_t begin, int64_t end);

struct ConvolveMemory {
  const void* data;
  int64_t bytes;
};

/// What the caller will read or write next, to be fetched from memory during the products of 3x3
/// convolutions of stride 1. Nothing is read of it, so it need not exist.
struct ConvolveAhead {
  const ConvolveMemory* parts = nullptr;
  int64_t count = 0;
};

/// Tiles [begin, end) of every y.
void convolve_forward_cpu(const ConvolveArgs& args, const void* x, const void* packed,
                          void* const* y, int64_t begin, int64_t end,
                          const ConvolveAhead& ahead = {});

/// Tiles [begin, end) of dx.
void convolve_backward_map_cpu(const ConvolveArgs& args, const void* const* grads,
                               const void* packed, void* grad_map, int64_t begin, int64_t end,
                               const ConvolveAhead& ahead = {});

/// Adds the contribution of tiles [begin, end) to the gradients of the transformed kernels,
/// kernel_values() values of opmath.
void convolve_backward_weight_cpu(const ConvolveArgs& args, const void* const* grads, const void* x,
                                  void* sums, int64_t begin, int64_t end,
                                  const ConvolveAhead& ahead = {});

/// The gradients of input channels [begin, end) of all kernels from `chunks` contributions.
void convolve_merge_weight_cpu(const ConvolveArgs& args, const void* sums, int64_t chunks,
                               void* const* grad_weights, int64_t begin, int64_t end);

}  // namespace snsoftmax
