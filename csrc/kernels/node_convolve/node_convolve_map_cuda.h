// The gradient of a node's map behind its convolutions, by tensor cores: the gradients of all live
// edges, convolved with their kernels turned over, all summed in registers. A block owns a tile of
// the map and N of its channels. Its work comes in chunks, a row of taps of a pass's columns; the
// gradients come with their halo when a pass begins. A warp owns 32 pixels: the rows of A are
// pixels, moved by a tap's offset, those of B are the kernels' output channels.
#pragma once

#include "common/pack_cuda.h"
#include "node_convolve/node_convolve_operands_cuda.h"

namespace snsoftmax {
namespace {

template <class T>
struct MapTask {
  Tiles tiles;
  int stages;
  const T* x;
  Gradients<T> three, one;
  T* dx;
};

template <class T, int C, int N>
struct MapShape {
  using Wide = Columns<T, C>;
  static constexpr int kGradPitch = Wide::kRowBytes + kCopyBytes;
  static constexpr int kRowBytes = N * static_cast<int>(sizeof(T));
  static constexpr int kPieces = kRowBytes / kCopyBytes;
  static constexpr int kKernelPitch = kRowBytes + Across<T>::kPad;
  static constexpr int kTapBytes = Wide::kWide * kKernelPitch;
  static constexpr int kSteps = Wide::kRowBytes / kStepBytes;
  static constexpr int kProducts = N / 8;
  static constexpr int kHalfBytes = kFragment * kGradPitch;

  static __host__ __device__ int stage_bytes(const Tiles& tiles) {
    return tiles.halo() * kGradPitch + 3 * kTapBytes;
  }
};

template <class T, int C, int N>
class MapBlock {
  using S = MapShape<T, C, N>;
  using A = Across<T>;

  /// A row of taps of a pass; `begins` a pass, the `number`-th.
  struct Chunk {
    Passes::Pass pass;
    int part, row, number;
    bool begins;
  };

 public:
  __device__ __forceinline__ MapBlock(const MapTask<T>& task, Places& places)
      : task_(task),
        places_(places),
        passes_{task.three.bits(), task.one.bits(), S::Wide::kEdges},
        lane_(lane_of_warp()),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        channels_(static_cast<int>(blockIdx.y) * N),
        corner_(task.tiles.corner(static_cast<int>(blockIdx.x))),
        stages_(dynamic_shared<unsigned char>()) {
    places.fill(task.tiles);
    pixel_ = task.tiles.pixel(corner_, static_cast<int>(threadIdx.x));
    own_ = (warp_ * kWarp + lane_ % kFragment) * S::kGradPitch + lane_ / kFragment * kCopyBytes;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int row = warp_ * kWarp + h * kFragment + lane_ % kFragment;
      a_[h] = task.tiles.window(row) * S::kGradPitch + lane_ / kFragment * kCopyBytes;
#pragma unroll
      for (int n = 0; n < S::kProducts; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum_[h][n][i] = 0.0f;
      }
    }
  }

  __device__ __forceinline__ int chunks() const {
    return (3 * passes_.of_three() + passes_.of_one()) * S::Wide::kParts;
  }

  __device__ __forceinline__ void copy(int index) const {
    const Chunk chunk = at(index);
    const Gradients<T>& of = chunk.pass.three ? task_.three : task_.one;
    const Tiles& tiles = task_.tiles;
    if (chunk.begins) {
      unsigned char* const to = gradients(chunk);
      if (chunk.pass.three) {
        of.template copy<C>(chunk.pass, chunk.part, to, S::kGradPitch, tiles.halo(),
                            [&](int place) { return places_.source(tiles, corner_, place); });
      } else {  // no halo
        const auto pixel = [&](int row) { return places_.pixel(tiles, corner_, row); };
        of.template copy<C>(chunk.pass, chunk.part, to, S::kGradPitch, kTilePixels, pixel);
      }
    }
    const int taps = chunk.pass.three ? 9 : 1;
#pragma unroll 1
    for (int t = 0; t < taps_of(chunk); ++t) {
      copy_rows<S::kPieces>(kernels(index) + t * S::kTapBytes, S::kKernelPitch, S::Wide::kWide,
                            of.weight, [&](int row, int byte) -> const void* {
                              const int column = chunk.part * S::Wide::kWide + row;
                              if (column / C >= chunk.pass.count) return nullptr;
                              const int from =
                                  chunk.pass.channel(column, C) * taps + chunk.row * 3 + t;
                              return bytes_of(of.weight + from * C + channels_) + byte;
                            });
    }
  }

  __device__ __forceinline__ void multiply(int index) {
    const Chunk chunk = at(index);
    const unsigned char* const grads = gradients(chunk);
    const unsigned char* const kernel = kernels(index) + A::template right_byte<S::kProducts>();
    const int across = task_.tiles.halo_columns();
#pragma unroll 1
    for (int t = 0; t < taps_of(chunk); ++t) {
      // Where a tap of the convolution reads ahead, its gradient comes from behind.
      const int moved = ((2 - chunk.row) * across + 2 - t) * S::kGradPitch;
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        if (step * A::kDepth / C >= chunk.pass.count) continue;
        uint32_t a[kHalves][4];
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          load_matrices(a[h], grads + step * kStepBytes +
                                  (chunk.pass.three ? a_[h] + moved : own_ + h * S::kHalfBytes));
#pragma unroll
          for (int i = 0; i < 4; ++i) a[h][i] = TensorCore<T>::operand(a[h][i]);
        }
        const unsigned char* rows[A::kRows];
#pragma unroll
        for (int i = 0; i < A::kRows; ++i) {
          rows[i] =
              kernel + t * S::kTapBytes + (step * A::kDepth + A::right_row(i)) * S::kKernelPitch;
        }
        uint32_t b[S::kProducts][2];
        A::load_right(b, rows);
#pragma unroll
        for (int n = 0; n < S::kProducts; ++n) {
          const uint32_t operands[2] = {TensorCore<T>::operand(b[n][0]),
                                        TensorCore<T>::operand(b[n][1])};
#pragma unroll
          for (int h = 0; h < kHalves; ++h) {
            TensorCore<T>::multiply(sum_[h][n], a[h], operands);
          }
        }
      }
    }
  }

  /// Rounds the sums and writes them, where the ReLU lets them through, 16 bytes at once.
  __device__ __forceinline__ void store() const {
    constexpr int kEach = kCopyBytes / static_cast<int>(sizeof(T));
    using Piece = Pack<T, kEach>;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int i = 0; i < A::template kPieces<S::kProducts>; ++i) {
        int half;
        Piece piece;
        const int channel = A::piece(sum_[h], i, half, piece.lane);
        const int pixel = __shfl_sync(kAllLanes, pixel_, h * kFragment + half * 8 + lane_ / 4);
        if (pixel < 0) continue;
        const int64_t at = static_cast<int64_t>(pixel) * C + channels_ + channel;
        const Piece x = Piece::load(task_.x + at);
#pragma unroll
        for (int v = 0; v < kEach; ++v) piece.lane[v] = gated(x.lane[v], piece.lane[v]);
        piece.store_whole(task_.dx + at);
      }
    }
  }

 private:
  __device__ __forceinline__ Chunk at(int index) const {
    const int of_three = passes_.of_three() * S::Wide::kParts;
    const bool three = index < 3 * of_three;
    const int number = three ? index / 3 : index - 2 * of_three;
    const int row = three ? index % 3 : 0;
    return {passes_.at(number / S::Wide::kParts), number % S::Wide::kParts, row, number, row == 0};
  }
  static __device__ __forceinline__ int taps_of(const Chunk& chunk) {
    return chunk.pass.three ? 3 : 1;
  }
  __device__ __forceinline__ unsigned char* gradients(const Chunk& chunk) const {
    return stages_ + (chunk.number & (task_.stages - 1)) * S::stage_bytes(task_.tiles);
  }
  __device__ __forceinline__ unsigned char* kernels(int index) const {
    return stages_ + (index & (task_.stages - 1)) * S::stage_bytes(task_.tiles) +
           task_.tiles.halo() * S::kGradPitch;
  }

  const MapTask<T>& task_;
  const Places& places_;
  Passes passes_;
  int lane_, warp_, channels_;
  Tiles::Corner corner_;
  int pixel_;             // of this lane, -1 outside the map
  int a_[kHalves], own_;  // where a lane's rows of A begin with a halo, and without
  unsigned char* stages_;
  float sum_[kHalves][S::kProducts][4];
};

/// Block [tile, N channels].
template <class T, int C, int N>
__global__ void __launch_bounds__(kThreads, 4) map_kernel(const __grid_constant__ MapTask<T> task) {
  __shared__ Places places;
  MapBlock<T, C, N> block(task, places);
  in_turn(
      block.chunks(), task.stages, [&](int index) { block.copy(index); },
      [&](int index) { block.multiply(index); });
  block.store();
}

// ---- host ----

template <class T, int C, int N>
const char* launch_map(MapTask<T> task, const Device& device, void* stream) {
  using S = MapShape<T, C, N>;
  const auto bytes = static_cast<size_t>(S::stage_bytes(task.tiles));
  task.stages = stages_of(bytes, sizeof(Places), device);
  if (task.stages == 0) return "a block has too little shared memory";
  return launch(map_kernel<T, C, N>,
                dim3(static_cast<unsigned>(task.tiles.count()), static_cast<unsigned>(C / N), 1),
                dim3(kThreads, 1, 1), bytes * static_cast<size_t>(task.stages), stream, task);
}

/// Blocks have 32 channels, or 16 where not every multiprocessor would have one.
template <class T, int C>
const char* launch_map(const MapTask<T>& task, void* stream) {
  Device device;
  if (const char* const error = read_device(&device); error != nullptr) return error;
  if constexpr (C > 16) {
    if (task.tiles.count() * (C / 32) >= device.multiprocessors) {
      return launch_map<T, C, 32>(task, device, stream);
    }
  }
  return launch_map<T, C, 16>(task, device, stream);
}

}  // namespace
}  // namespace snsoftmax
