// Who holds what in the mixture's CUDA kernels: packs of channels, pixels, chunks of pixels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/pack_cuda.h"
#include "mixture/mixture.h"

namespace snsoftmax {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kLean = 320;        // threads for __launch_bounds__: two such blocks, 96 registers
constexpr int kPixels = 2;        // of one thread in `combine` and `write`
constexpr int kWritten = 2;       // maps of one block in `write`
constexpr int64_t kChunks = 256;  // at most

/// Maps whose packs a thread of `sums` or `combine` has in flight side by side. A pack of 8
/// channels takes twice the registers in opmath.
template <int V>
constexpr int kMaps = V == 8 ? 2 : 4;

// Blocks that fill a GPU of 132 multiprocessors once, given what the kernels' registers allow. It
// is no property of the device, so that sums depend on the shapes alone.
constexpr int64_t kStatisticsBlocks = 528;
constexpr int64_t kSumsBlocks = 264;
constexpr int64_t kFewPixels = 4;    // of one thread: fewer do not pay for its part in a chunk
constexpr int64_t kManyPixels = 32;  // of one thread: longer sums in opmath lose accuracy

/// The pixels in `count` runs of `size`, the first `longer` of them one longer: no division on the
/// device.
struct Chunks {
  int64_t count;
  int64_t size;
  int64_t longer;

  __device__ __forceinline__ int64_t begin(int64_t i) const {
    return i * size + (i < longer ? i : longer);
  }
  __device__ __forceinline__ int64_t pixels(int64_t i) const { return size + (i < longer ? 1 : 0); }
};

struct Layout {
  int64_t packs;  // of a pixel
  int tile;       // packs of a pixel that a block holds
  int lanes;      // pixels side by side in a block
  int64_t tiles;  // blocks that share a pixel
  bool folded;    // warps hold whole pixels, a power of two of them: shuffles add these up
};

Layout layout_of(const MixtureArgs& args, int pack) {
  Layout layout;
  layout.packs = args.channels / pack;
  layout.tile = static_cast<int>(std::min<int64_t>(layout.packs, kThreads));
  layout.lanes = kThreads / layout.tile;
  layout.tiles = (layout.packs + layout.tile - 1) / layout.tile;
  layout.folded = layout.tile < kWarp && (layout.tile & (layout.tile - 1)) == 0;
  return layout;
}

/// Chunks that make up up to `blocks` blocks, where `groups` of maps are blocks of their own.
Chunks chunks_of(const MixtureArgs& args, const Layout& layout, int64_t groups, int64_t blocks) {
  const int64_t of_chunk = std::max<int64_t>(layout.tiles * groups, 1);
  const int64_t filling = blocks / of_chunk;  // not more: a wave of a few blocks takes as long
  const int64_t most = args.pixels / (kFewPixels * layout.lanes);
  const int64_t least = args.pixels / (kManyPixels * layout.lanes);
  Chunks chunks;
  chunks.count = std::clamp<int64_t>(std::max(std::min(most, filling), least), 1, kChunks);
  chunks.size = args.pixels / chunks.count;
  chunks.longer = args.pixels % chunks.count;
  return chunks;
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

/// The pixels of a chunk.
struct Range {
  int64_t begin;
  int64_t end;

  __device__ __forceinline__ Range(const Chunks& chunks, int64_t chunk)
      : begin(chunks.begin(chunk)), end(begin + chunks.pixels(chunk)) {}
};

template <class T, int V>
__device__ __forceinline__ typename Pack<T, V>::Memory read(const MixtureMap& map, int64_t pixel,
                                                            int64_t channel) {
  return Pack<T, V>::read(static_cast<const T*>(map.data) + pixel * map.stride + channel);
}

/// Of V numbers in a row, how many make a 16-byte vector; 1 where V is not the width of a pack.
template <class S, int V>
constexpr int kVector = V * sizeof(S) % 16 == 0 ? 16 / static_cast<int>(sizeof(S)) : 1;

template <class S, int V>
__device__ __forceinline__ Pack<S, V> coefficients(const S* from) {
  constexpr int kWidth = kVector<S, V>;
  Pack<S, V> pack;
#pragma unroll
  for (int v = 0; v < V; v += kWidth) {
    const auto vector = Pack<S, kWidth>::read(from + v);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) pack.lane[v + i] = vector.element[i];
  }
  return pack;
}

}  // namespace
}  // namespace snsoftmax
