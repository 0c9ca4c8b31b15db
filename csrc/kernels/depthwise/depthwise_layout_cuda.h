// Where the threads of the depthwise convolution's CUDA kernels are, and what they read.
//
// A block takes up to kGroup packs of adjacent channels, whose taps it keeps in shared memory, and
// as many pixels as its threads then hold; a thread has one pack of one pixel.
#pragma once

#include "common/pack_cuda.h"
#include "depthwise/depthwise.h"

namespace snsoftmax {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 8;      // packs: 128 bytes, a line of the cache
constexpr int kEdges = 4;      // whose taps a block holds, and whose results a thread
constexpr int kMostTaps = 25;  // of a channel's kernel

struct Size {
  int height, width;
};

/// What a launch works on. `from` is read through the windows, a thread owns a pixel of `to`.
struct Layout {
  Size from, to;
  int images, channels;  // of x
  int stride;
  int group;         // packs of a block
  int pixels;        // of a block, at once
  const void* mean;  // of x, or null
  const void* rstd;

  __device__ __forceinline__ int count() const { return images * to.height * to.width; }
};

/// Where a thread is within its block's packs and pixels, `channel` among the edge's.
struct Place {
  int pack, pixel, channel;
  bool there;  // has a pixel of the block and channels

  __device__ __forceinline__ Place(const Layout& layout, const DepthwiseEdge& edge, int width) {
    const int me = static_cast<int>(threadIdx.x);
    pack = me % layout.group;
    pixel = me / layout.group;
    channel = (static_cast<int>(blockIdx.y) * layout.group + pack) * width;
    there = pixel < layout.pixels && channel < edge.channels;
  }
};

/// A pixel of `to`.
struct Pixel {
  int image, row, column;

  __device__ __forceinline__ Pixel(const Layout& layout, int index)
      : image(index / layout.to.width / layout.to.height),
        row(index / layout.to.width % layout.to.height),
        column(index % layout.to.width) {}
};

/// The row or column that tap `tap` of `at` reads, or -1. `Turned`: of the gradient of the map,
/// which reads the results that have read it.
template <bool Turned>
__device__ __forceinline__ int source(const Layout& layout, const DepthwiseEdge& edge, int at,
                                      int tap, int size) {
  const int found = Turned
                        ? depthwise_reader(at, tap, layout.stride, edge.dilation, edge.padding())
                        : depthwise_source(at, tap, layout.stride, edge.dilation, edge.padding());
  return found >= 0 && found < size ? found : -1;
}

/// Where a pixel of `from` begins, in pixels.
__device__ __forceinline__ int64_t place_of(const Layout& layout, int image, int row, int column) {
  return (static_cast<int64_t>(image) * layout.from.height + row) * layout.from.width + column;
}

/// Packs of x as the convolutions read them: rectified, or as they are.
template <class T, int V>
struct Reader {
  using S = Opmath<T>;
  S mean[V];
  S rstd[V];
  bool rectifies;

  /// `channel`: the thread's first, of x's.
  __device__ __forceinline__ Reader(const Layout& layout, int channel, bool there)
      : rectifies(layout.mean != nullptr) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const bool given = rectifies && there;
      mean[v] = given ? static_cast<const S*>(layout.mean)[channel + v] : S(0);
      rstd[v] = given ? static_cast<const S*>(layout.rstd)[channel + v] : S(1);
    }
  }

  __device__ __forceinline__ Pack<T, V> load(const T* from) const {
    return of(Pack<T, V>::read(from));
  }

  /// Of what was read as it lies in memory, in which form it takes fewer registers.
  __device__ __forceinline__ Pack<T, V> of(const typename Pack<T, V>::Memory& memory) const {
    Pack<T, V> pack = Pack<T, V>::of(memory);
    if (rectifies) {
#pragma unroll
      for (int v = 0; v < V; ++v) pack.lane[v] = rectified(pack.lane[v], mean[v], rstd[v]);
    }
    return pack;
  }
};

/// The taps of a block's channels of up to E edges, for the threads to read after a barrier.
template <class T, int V, int E>
struct Taps {
  using S = Opmath<T>;
  S tap[E][kMostTaps][kGroup * V];

  /// Of the edges [first, first + count).
  __device__ __forceinline__ void load(const Layout& layout, const DepthwiseEdges& edges, int first,
                                       int count) {
    const int channel = static_cast<int>(blockIdx.y) * layout.group * V;
#pragma unroll 1
    for (int e = 0; e < count; ++e) {
      const DepthwiseEdge& edge = edges.edge[first + e];
      const int taps = edge.taps();
      const int left = edge.channels - channel;
      const int held = left < layout.group * V ? left : layout.group * V;
      const S* const weight =
          static_cast<const S*>(edge.weight) + static_cast<int64_t>(channel) * taps;
      for (int i = static_cast<int>(threadIdx.x); i < held * taps; i += kThreads) {
        tap[e][i % taps][i / taps] = weight[i];
      }
    }
  }
};

}  // namespace
}  // namespace snsoftmax
