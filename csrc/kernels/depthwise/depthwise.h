// Depthwise convolutions of one map, kernel interface: raw pointers and sizes, no PyTorch.
//
//   y_e[h, w, c] = sum_{i, j} k_e[i, j, c] u[at(h, i), at(w, j), c]
//   at(h, i) = stride h + dilation i - padding
//
// for every edge e, which has a kernel size, 3 or 5, and a dilation of its own, with padding =
// dilation (kernel - 1) / 2, and u = x or, where `mean` and `rstd` are given, u = max((x - mean)
// rstd, 0). The edges either all read all channels of x, or each some of its own. The gradients,
// g_e being that of y_e:
//
//   du = sum_e of the transposed convolution of g_e, times [u > 0] where u is rectified
//   dk_e[i, j, c] = sum over pixels of g_e u
//
// x is dense, [images, height, width, channels] of float, double or bfloat16, on CUDA also float16;
// the edges' maps may be slices of the channels of wider ones. Kernels, mean and rstd are of the
// opmath type: float, or double for double maps.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "depthwise/depthwise_math.h"

namespace snsoftmax {

/// The most edges of a call.
constexpr int kDepthwiseEdges = 64;

struct DepthwiseArgs {
  DType dtype = DType::kFloat32;  ///< of the maps
  int64_t height = 0;             ///< of x
  int64_t width = 0;
  int64_t channels = 0;
  int64_t stride = 1;
  const void* mean = nullptr;  ///< [channels], or null: u = x
  const void* rstd = nullptr;

  int64_t out_height() const { return depthwise_results(height, stride); }
  int64_t out_width() const { return depthwise_results(width, stride); }
};

struct DepthwiseEdge {
  void* map = nullptr;           ///< y_e, or its gradient
  const void* weight = nullptr;  ///< k_e, [channels, kernel, kernel]
  int pitch = 0;                 ///< elements from a pixel of the map to the next
  int begin = 0;                 ///< of x's channels, the first that is read
  int channels = 0;
  int kernel = 3;
  int dilation = 1;

  SN_HOST_DEVICE int padding() const { return depthwise_padding(kernel, dilation); }
  SN_HOST_DEVICE int taps() const { return kernel * kernel; }
};

struct DepthwiseEdges {
  int count = 0;
  bool apart = false;  ///< each reads channels of its own; together they are all of x's, in order
  DepthwiseEdge edge[kDepthwiseEdges];

  /// Elements of the weights before that of edge e, which are as those of all their gradients.
  SN_HOST_DEVICE int64_t taps_before(int e) const {
    int64_t sum = 0;
    for (int i = 0; i < e; ++i) sum += static_cast<int64_t>(edge[i].channels) * edge[i].taps();
    return sum;
  }
};

/// y_e of images [begin, end).
void depthwise_forward_cpu(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                           int64_t begin, int64_t end);

/// du of images [begin, end); `x` is read where it is rectified.
void depthwise_backward_map_cpu(const DepthwiseArgs& args, const void* x,
                                const DepthwiseEdges& edges, void* grad_map, int64_t begin,
                                int64_t end);

/// The contribution of images [begin, end) to dk_e, in double, [channels, kernel, kernel] of one
/// edge after the other.
void depthwise_backward_weight_cpu(const DepthwiseArgs& args, const void* x,
                                   const DepthwiseEdges& edges, double* grad_weights, int64_t begin,
                                   int64_t end);

// ---- CUDA: null, or what is wrong; `stream` is a cudaStream_t. Never synchronises. ----

const char* depthwise_forward_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                   const DepthwiseEdges& edges, void* stream);

const char* depthwise_backward_map_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                        const DepthwiseEdges& edges, void* grad_map, void* stream);

/// How many parts the gradients of the weights are summed in.
int64_t depthwise_parts_cuda(const DepthwiseArgs& args, int64_t images);

/// dk_e, of the opmath type, one after the other, the same bits every time; `parts` is memory for
/// depthwise_parts_cuda as many. Writes nothing where the map is empty.
const char* depthwise_backward_weight_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                           const DepthwiseEdges& edges, double* parts,
                                           void* grad_weights, void* stream);

}  // namespace snsoftmax
