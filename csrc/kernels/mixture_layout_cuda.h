// Who holds what in the mixture's CUDA kernels: packs of channels, pixels, chunks of pixels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda_types.h"
#include "mixture.h"

namespace snsoftmax {
namespace {

constexpr int kThreads = 256;
constexpr int kPixels = 4;        // of one thread in `combine` and `write`
constexpr int kMaps = 4;          // read beside each gradient in `sums`
constexpr int64_t kChunks = 256;  // at most

/// V adjacent channels in opmath.
template <class T, int V>
struct Pack {
  using S = Opmath<T>;
  S lane[V];

  struct alignas(V * sizeof(T)) Memory {
    T element[V];
  };

  static __device__ __forceinline__ Pack load(const T* from) {
    const Memory memory = *reinterpret_cast<const Memory*>(from);
    Pack pack;
#pragma unroll
    for (int v = 0; v < V; ++v) pack.lane[v] = to_opmath(memory.element[v]);
    return pack;
  }
  __device__ __forceinline__ void store(T* to) const {
    Memory memory;
#pragma unroll
    for (int v = 0; v < V; ++v) store_one(&memory.element[v], lane[v]);
    *reinterpret_cast<Memory*>(to) = memory;
  }
};

struct Layout {
  int64_t packs;  // of a pixel
  int tile;       // packs of a pixel that a block holds
  int lanes;      // pixels side by side in a block
  int64_t tiles;  // blocks that share a pixel
  int64_t chunks;
};

Layout layout_of(const MixtureArgs& args, int pack) {
  Layout layout;
  layout.packs = args.channels / pack;
  layout.tile = static_cast<int>(std::min<int64_t>(layout.packs, kThreads));
  layout.lanes = kThreads / layout.tile;
  layout.tiles = (layout.packs + layout.tile - 1) / layout.tile;
  const int64_t worthwhile = args.pixels / (int64_t{8} * layout.lanes);
  layout.chunks = std::min(std::max<int64_t>(worthwhile, 1), kChunks);
  return layout;
}

/// This thread's place in its block; blockIdx.y is the tile of channels.
struct Place {
  int tile;      // pack within the block
  int lane;      // pixel within the block
  int64_t pack;  // pack within the pixel
  bool active;

  explicit __device__ __forceinline__ Place(const Layout& layout)
      : tile(static_cast<int>(threadIdx.x) % layout.tile),
        lane(static_cast<int>(threadIdx.x) / layout.tile),
        pack(static_cast<int64_t>(blockIdx.y) * layout.tile + tile),
        active(lane < layout.lanes && pack < layout.packs) {}
};

struct Range {
  int64_t begin;
  int64_t end;

  /// Chunk blockIdx.x of the pixels.
  __device__ __forceinline__ Range(int64_t pixels, int64_t chunks)
      : begin(pixels * static_cast<int64_t>(blockIdx.x) / chunks),
        end(pixels * (static_cast<int64_t>(blockIdx.x) + 1) / chunks) {}
};

template <class T, int V>
__device__ __forceinline__ Pack<T, V> load(const MixtureMap& map, int64_t pixel, int64_t channel) {
  return Pack<T, V>::load(static_cast<const T*>(map.data) + pixel * map.stride + channel);
}

template <class S, int V>
__device__ __forceinline__ Pack<S, V> coefficients(const S* of_map, int64_t channel) {
  Pack<S, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.lane[v] = of_map[channel + v];
  return pack;
}

/// Combines the values of the lanes of a tile, in a tree; lane 0 then has the whole. Every thread
/// of the block calls it. `values[i * stride]` is lane i's, `combine(to, from)` takes indices.
template <class F>
__device__ __forceinline__ void tree(int lane, int lanes, const F& combine) {
  int width = 1;
  while (width < lanes) width *= 2;
  for (width /= 2; width > 0; width /= 2) {
    __syncthreads();
    if (lane < width && lane + width < lanes) combine(lane, lane + width);
  }
  __syncthreads();
}

}  // namespace
}  // namespace snsoftmax
