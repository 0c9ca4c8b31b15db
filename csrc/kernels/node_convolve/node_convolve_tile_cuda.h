// The node's convolutions by tensor cores. A block owns one tile of the map: it copies the tile
// with its halo to shared memory once and multiplies it with the kernels of all live edges,
// kColumns output channels a pass. The kernels come in chunks of taps; the next chunk is copied
// while one is multiplied. A warp owns 32 pixels: the rows of A are pixels, moved by a tap's offset
// in the halo, those of B are output channels.
#pragma once

#include "common/pack_cuda.h"
#include "node_convolve/node_convolve_operands_cuda.h"

namespace snsoftmax {
namespace {

constexpr int kColumns = 64;  // output channels of a pass
constexpr int kProducts = kColumns / 8;

/// One operation as the kernels see it; `first` is its first column among all operations'.
template <class T>
struct Operation : Edges {
  const T* weight;
  T* y;
  int first;
};

template <class T>
struct Task {
  Tiles tiles;
  int channels;
  int columns;  // of all operations
  const T* x;
  Operation<T> three, one;
  TileMoments<Opmath<T>>* moments;  // [tiles, columns]
};

/// What shared memory holds. Rows are 16 bytes longer than their values, so that eight of them
/// begin in different banks.
template <class T, int C>
struct Shape {
  static constexpr int kRowBytes = C * static_cast<int>(sizeof(T));
  static constexpr int kPitch = kRowBytes + kCopyBytes;
  static constexpr int kPieces = kRowBytes / kCopyBytes;
  static constexpr int kSteps = kRowBytes / kStepBytes;
  static constexpr int kEdges = kColumns / C;            // of a pass
  static constexpr int kTaps = kRowBytes <= 64 ? 3 : 1;  // of a chunk
  static constexpr int kChunkBytes = kTaps * kColumns * kPitch;
  static constexpr int kOutPitch = kColumns * static_cast<int>(sizeof(T)) + kCopyBytes;
  static constexpr int kOutPieces = kOutPitch / kCopyBytes - 1;
  static constexpr int kOutBytes = kWarps * kFragment * kOutPitch;

  static size_t bytes(const Tiles& tiles) {
    return static_cast<size_t>(tiles.halo() * kPitch + 2 * kChunkBytes + kOutBytes);
  }
};

/// The warps' moments of a pass.
struct Parts {
  TileMoments<float> moments[kWarps][kColumns];
  int counts[kWarps];
};

template <class T, int C>
class Block {
  using S = Shape<T, C>;
  using Pass = Passes::Pass;

 public:
  __device__ __forceinline__ explicit Block(const Task<T>& task)
      : task_(task),
        tile_(static_cast<int>(blockIdx.x)),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        corner_(task.tiles.corner(tile_)),
        halo_(dynamic_shared<unsigned char>()),
        chunks_(halo_ + task.tiles.halo() * S::kPitch),
        out_(chunks_ + 2 * S::kChunkBytes + warp_ * kFragment * S::kOutPitch) {
    const int mine = warp_ * kWarp + lane_;
    pixel_ = task.tiles.pixel(corner_, mine);
    covered_ = __ballot_sync(kAllLanes, pixel_ >= 0);
    // Of the matrices that a lane loads a row of: A's first rows, its last, both further on.
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int row = warp_ * kWarp + h * kFragment + lane_ % kFragment;
      a_[h] = task.tiles.window(row) * S::kPitch + lane_ / kFragment * kCopyBytes;
    }
    b_ = (lane_ / 16 * 8 + lane_ % 8) * S::kPitch + lane_ / 8 % 2 * kCopyBytes;
  }

  __device__ __forceinline__ void copy_halo() const {
    copy_rows<S::kPieces>(halo_, S::kPitch, task_.tiles.halo(), task_.x,
                          [&](int place, int byte) -> const void* {
                            const int64_t from = task_.tiles.source(corner_, place);
                            if (from < 0) return nullptr;
                            return bytes_of(task_.x) + from * S::kRowBytes + byte;
                          });
  }

  /// Chunk `chunk` of a pass's kernels to one of the two places for chunks.
  __device__ __forceinline__ void copy_chunk(const Pass& pass, int chunk, int stage) const {
    const T* const weight = pass.three ? task_.three.weight : task_.one.weight;
    const int taps = pass.three ? 9 : 1;
    copy_rows<S::kPieces>(chunks_ + stage * S::kChunkBytes, S::kPitch, taps_of(pass) * kColumns,
                          weight, [&](int row, int byte) -> const void* {
                            const int column = row % kColumns;
                            if (column / C >= pass.count) return nullptr;
                            const int from = pass.channel(column, C) * taps + chunk * S::kTaps;
                            return bytes_of(weight) + (from + row / kColumns) * S::kRowBytes + byte;
                          });
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int n = 0; n < kProducts; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum_[h][n][i] = 0.0f;
      }
    }
  }

  __device__ __forceinline__ void multiply(const Pass& pass, int chunk, int stage) {
    const unsigned char* const kernels = chunks_ + stage * S::kChunkBytes + b_;
#pragma unroll 1
    for (int t = 0; t < taps_of(pass); ++t) {
      const int tap = pass.three ? chunk * S::kTaps + t : 4;  // a 1x1 kernel is the middle one
      const int moved = (tap / 3 * task_.tiles.halo_columns() + tap % 3) * S::kPitch;
      const unsigned char* const rows = kernels + t * kColumns * S::kPitch;
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t a[kHalves][4];
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          load_matrices(a[h], halo_ + a_[h] + moved + step * kStepBytes);
#pragma unroll
          for (int i = 0; i < 4; ++i) a[h][i] = TensorCore<T>::rectified(a[h][i]);
        }
#pragma unroll
        for (int n = 0; n < kProducts; n += 2) {
          if (n * 8 / C >= pass.count) continue;
          uint32_t b[4];
          load_matrices(b, rows + n * 8 * S::kPitch + step * kStepBytes);
          const uint32_t left[2] = {TensorCore<T>::operand(b[0]), TensorCore<T>::operand(b[1])};
          const uint32_t right[2] = {TensorCore<T>::operand(b[2]), TensorCore<T>::operand(b[3])};
#pragma unroll
          for (int h = 0; h < kHalves; ++h) {
            TensorCore<T>::multiply(sum_[h][n], a[h], left);
            TensorCore<T>::multiply(sum_[h][n + 1], a[h], right);
          }
        }
      }
    }
  }

  /// Rounds a pass's sums, writes them in rows of 16 bytes, and the moments of what is written.
  __device__ __forceinline__ void finish(const Pass& pass) const {
    __shared__ Parts parts;
    using Pair = Pack<T, 2>;
    const int column = 2 * lane_;
    float shift[2] = {}, sum[2] = {}, squares[2] = {};
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int n = 0; n < kProducts; ++n) {
        const int at = n * 8 + lane_ % 4 * 2;
        const float (&d)[4] = sum_[h][n];
        Pair{{d[0], d[1]}}.store(out(lane_ / 4, at));
        Pair{{d[2], d[3]}}.store(out(lane_ / 4 + 8, at));
      }
      __syncwarp();
#pragma unroll
      for (int row = 0; row < kFragment; ++row) {
        const Pair pair = Pair::load(out(row, column));
        // Any value nearby keeps the squares from cancelling.
        if (h == 0 && row == 0) shift[0] = pair.lane[0], shift[1] = pair.lane[1];
        const bool counted = (covered_ >> (h * kFragment + row) & 1u) != 0;
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          const float moved = counted ? pair.lane[v] - shift[v] : 0.0f;
          sum[v] += moved;
          squares[v] += moved * moved;
        }
      }
      write(pass, h);
      __syncwarp();
    }
    const int covered = Passes::bits_of(covered_);
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      parts.moments[warp_][column + v] =
          TileMoments<float>::of(covered, shift[v], sum[v], squares[v]);
    }
    if (lane_ == 0) parts.counts[warp_] = covered;
    __syncthreads();
    const int mine = static_cast<int>(threadIdx.x);
    if (mine >= pass.count * C) return;
    float mean = 0.0f, m2 = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      mean += parts.moments[w][mine].mean * static_cast<float>(parts.counts[w]);
    mean /= static_cast<float>(task_.tiles.covered(tile_));
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float away = parts.moments[w][mine].mean - mean;
      m2 += parts.moments[w][mine].m2 + away * away * static_cast<float>(parts.counts[w]);
    }
    const int first = pass.three ? task_.three.first : task_.one.first;
    task_.moments[static_cast<int64_t>(tile_) * task_.columns + first + pass.channel(mine, C)] = {
        mean, m2};
  }

 private:
  static __device__ __forceinline__ int taps_of(const Pass& pass) {
    return pass.three ? S::kTaps : 1;
  }
  /// A column of one of the 16 rows that a warp writes together.
  __device__ __forceinline__ T* out(int row, int column) const {
    return reinterpret_cast<T*>(out_ + row * S::kOutPitch) + column;
  }

  /// Those rows to the map.
  __device__ __forceinline__ void write(const Pass& pass, int half) const {
    T* const y = pass.three ? task_.three.y : task_.one.y;
    const int edges = pass.three ? task_.three.edges : task_.one.edges;
    constexpr int kEach = kCopyBytes / static_cast<int>(sizeof(T));
#pragma unroll
    for (int i = lane_; i < kFragment * S::kOutPieces; i += kWarp) {
      const int row = i / S::kOutPieces;
      const int column = i % S::kOutPieces * kEach;
      const int pixel = __shfl_sync(kAllLanes, pixel_, half * kFragment + row);
      if (pixel < 0 || column / C >= pass.count) continue;
      const int64_t to = static_cast<int64_t>(pixel) * edges * C + pass.channel(column, C);
      *reinterpret_cast<uint4*>(y + to) = *reinterpret_cast<const uint4*>(out(row, column));
    }
  }

  const Task<T>& task_;
  int tile_, lane_, warp_;
  Tiles::Corner corner_;
  int pixel_;         // of this lane, -1 outside the map
  unsigned covered_;  // the warp's pixels within the map
  int a_[kHalves], b_;
  unsigned char *halo_, *chunks_, *out_;
  float sum_[kHalves][kProducts][4];
};

/// Block [tile, part] computes every gridDim.y-th pass.
template <class T, int C>
__global__ void __launch_bounds__(kThreads, 4) tensor_kernel(const __grid_constant__ Task<T> task) {
  const Passes passes{task.three.bits(), task.one.bits(), Shape<T, C>::kEdges};
  const int parts = static_cast<int>(gridDim.y);
  int index = static_cast<int>(blockIdx.y);
  if (index >= passes.count()) return;
  Block<T, C> block(task);
  block.copy_halo();
  block.copy_chunk(passes.at(index), 0, 0);
  int stage = 0;
#pragma unroll 1
  for (; index < passes.count(); index += parts) {
    const Passes::Pass pass = passes.at(index);
    const int chunks = pass.three ? 9 / Shape<T, C>::kTaps : 1;
    block.clear();
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      wait_for_copies();
      __syncthreads();
      if (chunk + 1 < chunks) {
        block.copy_chunk(pass, chunk + 1, 1 - stage);
      } else if (index + parts < passes.count()) {
        block.copy_chunk(passes.at(index + parts), 0, 1 - stage);
      }
      block.multiply(pass, chunk, stage);
      stage = 1 - stage;
    }
    block.finish(pass);
  }
}

}  // namespace
}  // namespace snsoftmax
