// How the threads of the mixture's CUDA kernels add up what they hold: shuffles within a warp, then
// one stage in shared memory with a single barrier. All of it in double and in a fixed order.
#pragma once

#include <cstdint>

#include "mixture/mixture_layout_cuda.h"

namespace snsoftmax {
namespace {

constexpr int kWarps = kThreads / kWarp;

/// R rows of sums over a block's pixels, a column for each channel of its tile.
///
/// Where the layout is folded, the lanes of a warp that hold the same pack add up first, and shared
/// memory gets a slot for each warp; else a slot for each lane of the block, as it is.
template <class E, int R, int V>
class Columns {
 public:
  // A folded tile is at most half a warp: a double for each of its channels and of the warps fits.
  static_assert(sizeof(E) * kThreads >= sizeof(double) * kWarps * kWarp / 2);
  struct alignas(16) Memory {
    unsigned char bytes[R * V * kThreads * sizeof(E)];
  };

  /// Every thread of the block takes part; those without a pixel bring zeros.
  __device__ __forceinline__ Columns(const Layout& layout, const Place& place, Memory& memory,
                                     const E (&total)[R][V])
      : memory_(memory.bytes),
        tile_(layout.tile),
        slots_(layout.folded ? kWarps : layout.lanes),
        folded_(layout.folded) {
    if (folded_) {
      fold(total, kWarp / 2, 0, true);
    } else if (place.lane < layout.lanes) {
      E* const to = reinterpret_cast<E*>(memory_) + place.lane * R * width() + place.tile * V;
#pragma unroll
      for (int r = 0; r < R; ++r) put(to + r * width(), total[r]);
    }
    __syncthreads();
  }

  __device__ __forceinline__ int width() const { return tile_ * V; }

  __device__ __forceinline__ double sum(int row, int column) const {
    const int at = row * width() + column;
    return folded_ ? over_slots(reinterpret_cast<const double*>(memory_) + at)
                   : over_slots(reinterpret_cast<const E*>(memory_) + at);
  }

 private:
  /// The lanes `bit` apart add up their W values of each row, down to those `tile_` apart. Each of
  /// the two goes on with half of the values while there are any to share out.
  template <class X, int W>
  __device__ __forceinline__ void fold(const X (&x)[R][W], int bit, int first, bool writes) {
    if constexpr (W > 1) {
      if (bit >= tile_) {
        const bool upper = (threadIdx.x & bit) != 0;
        double half[R][W / 2];
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
          for (int v = 0; v < W / 2; ++v) {
            const X given = upper ? x[r][v] : x[r][v + W / 2];
            const X kept = upper ? x[r][v + W / 2] : x[r][v];
            half[r][v] = static_cast<double>(kept) +
                         static_cast<double>(__shfl_xor_sync(0xffffffffu, given, bit));
          }
        }
        fold(half, bit / 2, upper ? first + W / 2 : first, writes);
        return;
      }
    }
    double whole[R][W];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int v = 0; v < W; ++v) whole[r][v] = static_cast<double>(x[r][v]);
    }
    for (; bit >= tile_; bit /= 2) {  // W is 1
#pragma unroll
      for (int r = 0; r < R; ++r) whole[r][0] += __shfl_xor_sync(0xffffffffu, whole[r][0], bit);
      writes = writes && (threadIdx.x & bit) == 0;
    }
    if (!writes) return;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int pack = static_cast<int>(threadIdx.x) & (tile_ - 1);
    double* const to = reinterpret_cast<double*>(memory_) + warp * R * width() + pack * V + first;
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int v = 0; v < W; ++v) to[r * width() + v] = whole[r][v];
    }
  }

  static __device__ __forceinline__ void put(E* to, const E (&row)[V]) {
    constexpr int kWidth = kVector<E, V>;
#pragma unroll
    for (int v = 0; v < V; v += kWidth) {
      Pack<E, kWidth> vector;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) vector.lane[i] = row[v + i];
      vector.store(to + v);
    }
  }

  template <class From>
  __device__ __forceinline__ double over_slots(const From* from) const {
    double sum = 0.0;
#pragma unroll 8
    for (int slot = 0; slot < slots_; ++slot) {
      sum += static_cast<double>(from[slot * R * width()]);
    }
    return sum;
  }

  unsigned char* memory_;
  int tile_;
  int slots_;
  bool folded_;
};

// ---- merging the chunks: a block holds kColumns channels, kMergeLanes chunks side by side ----

constexpr int kColumns = 16;
constexpr int kMergeLanes = kThreads / kColumns;
constexpr int kAhead = 8;  // chunks of a thread that are loaded before the first one is used

template <int R>
using MergeMemory = double[R][kWarps][kColumns];

/// Adds up the block's lanes; the first kColumns threads then have their columns' sums.
template <int R>
__device__ __forceinline__ void merge_lanes(double (&x)[R], MergeMemory<R>& memory) {
  const int column = static_cast<int>(threadIdx.x) % kColumns;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int bit = kWarp / 2; bit >= kColumns; bit /= 2) {
      x[r] += __shfl_xor_sync(0xffffffffu, x[r], bit);
    }
    if (threadIdx.x % kWarp < kColumns) memory[r][warp][column] = x[r];
  }
  __syncthreads();
  if (threadIdx.x >= kColumns) return;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    x[r] = 0.0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) x[r] += memory[r][i][column];
  }
}

}  // namespace
}  // namespace snsoftmax
