// The convolutions that leave a node of the supernet, all from one read of its map, and the moments
// that the batch normalisations behind them need; kernel interface: raw pointers, no PyTorch.
//
//   y[e, o] = sum over taps and channels of max(x, 0) w[e, o]      stride 1, borders of zeros
//   moments[e, :, o] = mean and sum of squared deviations of y[e, o] over images and pixels
//
// for the 3x3 and the 1x1 convolutions of each outgoing edge e, every one from `channels` to
// `channels`. The moments are those of y as it is stored. An edge that is not live is left out: its
// part of y is not written, its mean is 0 and its sum of squared deviations -1, as the mixture
// knows maps that were left out; the kernel reads which are, so that a recorded graph need not be
// recorded again as β sharpens.
//
// Their gradients, where g[e] is that of y[e], an edge that is not live has none and its g is not
// read:
//
//   dw[e, o, tap, c] = sum over images and pixels p of g[e, o](p) max(x[c](p + tap), 0)
//   dx[c](p) = sum over e, o and taps of g[e, o](p - tap) w[e, o, tap, c] where x[c](p) > 0, else 0
//
// Maps are dense [images, height, width, channels], the edges of an operation side by side along
// channels; kernels are [edges * channels, kernel, kernel, channels], as channels_last tensors are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace snsoftmax {

struct NodeConvolveArgs {
  DType dtype = DType::kFloat32;  ///< of maps and kernels
  int64_t images = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;

  int64_t pixels() const { return images * height * width; }
};

/// One operation on the edges that leave the node.
struct NodeConvolution {
  int64_t edges = 0;
  const void* weight = nullptr;
  const bool* live = nullptr;  ///< [edges]; null: all
  void* y = nullptr;           ///< [images, height, width, edges * channels]
  double* moments = nullptr;   ///< [edges, 2, channels]
};

// ---- CUDA: null, or what is wrong; `stream` is a cudaStream_t. Never synchronises, sums have a
// fixed order: a call can be captured, same input, same bits. Tensor cores multiply bfloat16, and
// float rounded to TF32, of 16, 32 or 64 channels; everything else is summed in float or double.

constexpr int64_t kMaxNodeEdgesCuda = 32;  ///< of an operation

/// Bytes of workspace for `edges` edges of all operations.
size_t node_convolve_workspace_cuda(const NodeConvolveArgs& args, int64_t edges);

const char* node_convolve_cuda(const NodeConvolveArgs& args, const void* x,
                               const NodeConvolution& three, const NodeConvolution& one,
                               void* workspace, void* stream);

// ---- gradients on CUDA, as above, but by tensor cores alone: bfloat16 or float, 16, 32 or 64
// channels, maps and kernels that begin on 16 bytes. How many blocks share the pixels does not
// depend on the device, so neither does the order of the sums.

/// One operation's gradients.
struct NodeConvolveGradients {
  int64_t edges = 0;
  const bool* live = nullptr;    ///< [edges]; null: all
  const void* y = nullptr;       ///< of its maps, [images, height, width, edges * channels]
  const void* weight = nullptr;  ///< its kernels, for the gradient of the map
};

/// Bytes of workspace for the gradients of the kernels.
size_t node_convolve_weights_workspace_cuda(const NodeConvolveArgs& args, int64_t of_three,
                                            int64_t of_one);

/// dw of both operations, laid out as their kernels; zeros for edges that are not live.
const char* node_convolve_weights_cuda(const NodeConvolveArgs& args, const void* x,
                                       const NodeConvolveGradients& three,
                                       const NodeConvolveGradients& one, void* dw_three,
                                       void* dw_one, void* workspace, void* stream);

/// dx; zeros if no edge is live.
const char* node_convolve_map_cuda(const NodeConvolveArgs& args, const void* x,
                                   const NodeConvolveGradients& three,
                                   const NodeConvolveGradients& one, void* dx, void* stream);

}  // namespace snsoftmax
