// The gradients of the kernels of a node's convolutions, by tensor cores: products of gradients and
// of the rectified map, summed over pixels. A block owns a group, a pass's columns of both
// operations and up to 32 input channels, and goes over its slice of the tiles: of each it copies
// the map with its halo and both gradients, while the one before is multiplied. Three warps take a
// row of the 3x3 kernels' taps each, the fourth the 1x1 kernels. The sums stay in registers to the
// end; a second launch adds those of all slices, in a fixed order.
#pragma once

#include "common/pack_cuda.h"
#include "node_convolve/node_convolve_operands_cuda.h"

namespace snsoftmax {
namespace {

constexpr int kRowTaps = 3;  // of a row of a 3x3 kernel, a warp's
static_assert(kWarps == 3 + 1);

template <class T>
struct WeightsTask {
  Tiles tiles;
  int stages;
  const T* x;
  Gradients<T> three, one;
  float* sums;  // [slices, kernels of three, then of one]

  __host__ __device__ int of_three(int channels) const {
    return three.edges * 9 * channels * channels;
  }
  __host__ __device__ int all(int channels) const {
    return of_three(channels) + one.edges * channels * channels;
  }
};

template <class T, int C>
struct WeightsShape {
  using Wide = Columns<T, C>;
  static constexpr int kChannels = C < 32 ? C : 32;               // of the input, in a group
  static constexpr int kGroups = Wide::kParts * (C / kChannels);  // of the same edges
  static constexpr int kRowBytes = kChannels * static_cast<int>(sizeof(T));
  static constexpr int kPieces = kRowBytes / kCopyBytes;
  static constexpr int kMapPitch = kRowBytes + Across<T>::kPad;
  static constexpr int kGradPitch = Wide::kRowBytes + Across<T>::kPad;
  static constexpr int kGradBytes = kTilePixels * kGradPitch;
  static constexpr int kFragments = Wide::kWide / kFragment;
  static constexpr int kProducts = kChannels / 8;

  static __host__ __device__ int stage_bytes(const Tiles& tiles) {
    return tiles.halo() * kMapPitch + 2 * kGradBytes;
  }
  /// Groups that have the same pixels to go over, if all edges are live.
  static int alike(int three, int one) {
    const int passes = ceil_of(three > one ? three : one, Wide::kEdges);
    return passes * kGroups;
  }
};

template <class T, int C>
class WeightsBlock {
  using S = WeightsShape<T, C>;
  using A = Across<T>;

 public:
  __device__ __forceinline__ WeightsBlock(const WeightsTask<T>& task, Places& places)
      : task_(task),
        places_(places),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        slice_(static_cast<int>(blockIdx.x)),
        part_(static_cast<int>(blockIdx.y) % S::Wide::kParts),
        channels_(static_cast<int>(blockIdx.y) / S::Wide::kParts % (C / S::kChannels) *
                  S::kChannels),
        stages_(dynamic_shared<unsigned char>()) {
    const int pass = static_cast<int>(blockIdx.y) / S::kGroups;
    const Passes passes{task.three.bits(), task.one.bits(), S::Wide::kEdges};
    three_ = passes.of(true, pass);
    one_ = passes.of(false, pass);
    mine_ = passes.of(warp_ < kRowTaps, pass);
    places.fill(task.tiles);
#pragma unroll
    for (int f = 0; f < S::kFragments; ++f) {
#pragma unroll
      for (int t = 0; t < kRowTaps; ++t) {
#pragma unroll
        for (int n = 0; n < S::kProducts; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum_[f][t][n][i] = 0.0f;
        }
      }
    }
  }

  /// How many tiles it goes over.
  __device__ __forceinline__ int tiles() const {
    const bool any = three_.count + one_.count > 0;
    return any ? ceil_of(task_.tiles.count() - slice_, static_cast<int>(gridDim.x)) : 0;
  }

  __device__ __forceinline__ void copy(int index) const {
    const Tiles& tiles = task_.tiles;
    const Tiles::Corner corner = tiles.corner(slice_ + index * static_cast<int>(gridDim.x));
    unsigned char* const to = stage(index);
    copy_rows<S::kPieces>(to, S::kMapPitch, tiles.halo(), task_.x,
                          [&](int place, int byte) -> const void* {
                            const int64_t from = places_.source(tiles, corner, place);
                            if (from < 0) return nullptr;
                            return bytes_of(task_.x + from * C + channels_) + byte;
                          });
    const auto pixel = [&](int row) { return places_.pixel(tiles, corner, row); };
    unsigned char* const grads = to + tiles.halo() * S::kMapPitch;
    if (three_.count > 0) {
      task_.three.template copy<C>(three_, part_, grads, S::kGradPitch, kTilePixels, pixel);
    }
    if (one_.count > 0) {
      task_.one.template copy<C>(one_, part_, grads + S::kGradBytes, S::kGradPitch, kTilePixels,
                                 pixel);
    }
  }

  __device__ __forceinline__ void multiply(int index) {
    const Passes::Pass pass = mine_;
    if (pass.count == 0) return;
    const int across = task_.tiles.halo_columns();
    // The 1x1 kernel is the middle tap of nine.
    const int first = pass.three ? warp_ * across : across + 1;
    const unsigned char* const map =
        stage(index) + first * S::kMapPitch + A::template right_byte<S::kProducts>();
    const unsigned char* const grads = stage(index) + task_.tiles.halo() * S::kMapPitch +
                                       (pass.three ? 0 : S::kGradBytes) + A::left_byte();
#pragma unroll 1
    for (int step = 0; step < kTilePixels; step += A::kDepth) {
      const unsigned char* rows[A::kRows];
      int windows[A::kRows];
#pragma unroll
      for (int i = 0; i < A::kRows; ++i) {
        rows[i] = grads + (step + A::left_row(i)) * S::kGradPitch;
        windows[i] = places_.window[step + A::right_row(i)] * S::kMapPitch;
      }
      uint32_t a[S::kFragments][4];
      A::load_left(a, rows);
#pragma unroll
      for (int f = 0; f < S::kFragments; ++f) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[f][i] = TensorCore<T>::operand(a[f][i]);
      }
#pragma unroll
      for (int t = 0; t < kRowTaps; ++t) {
        if (t >= taps_of(pass)) continue;
        uint32_t b[S::kProducts][2];
#pragma unroll
        for (int i = 0; i < A::kRows; ++i) rows[i] = map + windows[i] + t * S::kMapPitch;
        A::load_right(b, rows);
#pragma unroll
        for (int n = 0; n < S::kProducts; ++n) {
          const uint32_t rectified[2] = {TensorCore<T>::rectified(b[n][0]),
                                         TensorCore<T>::rectified(b[n][1])};
#pragma unroll
          for (int f = 0; f < S::kFragments; ++f) {
            if (f * kFragment / A::kSpan * A::kSpan / C >= pass.count) continue;
            TensorCore<T>::multiply(sum_[f][t][n], a[f], rectified);
          }
        }
      }
    }
  }

  /// The warp's sums to its slice's place, in rows of 16 bytes.
  __device__ __forceinline__ void store() const {
    const Passes::Pass pass = mine_;
    if (pass.count == 0) return;
    const int taps = pass.three ? 9 : 1;
    const int first_tap = pass.three ? warp_ * kRowTaps : 0;
    float* const to = task_.sums + static_cast<int64_t>(slice_) * task_.all(C) +
                      (pass.three ? 0 : task_.of_three(C)) + channels_;
#pragma unroll
    for (int f = 0; f < S::kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = part_ * S::Wide::kWide + A::column(f, half);
        float* const row = to + (pass.channel(column, C) * taps + first_tap) * C;
#pragma unroll
        for (int t = 0; t < kRowTaps; ++t) {
          if (t >= taps_of(pass)) continue;
#pragma unroll
          for (int q = 0; q < S::kProducts / 2; ++q) {
            Pack<float, 4> quad;
            const int channel = A::quad(sum_[f][t], half, q, quad.lane);
            if (column / C < pass.count) quad.store(row + t * C + channel);
          }
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ int taps_of(const Passes::Pass& pass) {
    return pass.three ? kRowTaps : 1;
  }
  __device__ __forceinline__ unsigned char* stage(int index) const {
    return stages_ + (index & (task_.stages - 1)) * S::stage_bytes(task_.tiles);
  }

  const WeightsTask<T>& task_;
  const Places& places_;
  int warp_, slice_, part_, channels_;
  unsigned char* stages_;
  Passes::Pass three_, one_, mine_;  // mine: of this warp
  float sum_[S::kFragments][kRowTaps][S::kProducts][4];
};

/// Block [slice, group].
template <class T, int C>
__global__ void __launch_bounds__(kThreads, 3)
    weights_kernel(const __grid_constant__ WeightsTask<T> task) {
  __shared__ Places places;
  WeightsBlock<T, C> block(task, places);
  const int tiles = block.tiles();
  if (tiles == 0) return;
  in_turn(
      tiles, task.stages, [&](int index) { block.copy(index); },
      [&](int index) { block.multiply(index); });
  block.store();
}

// ---- adding the slices: a block holds kSumPacks packs of four kernel elements, all of one edge,
// kSumSlots slices side by side ----

constexpr int kSumPacks = 32;
constexpr int kSumSlots = 8;
static_assert(16 * 16 % (4 * kSumPacks) == 0);

template <class T>
__global__ void __launch_bounds__(kSumPacks* kSumSlots)
    sum_kernel(const __grid_constant__ WeightsTask<T> task, int channels, int slices, T* dw_three,
               T* dw_one) {
  using Quad = Pack<float, 4>;
  __shared__ Quad::Memory sums[kSumSlots][kSumPacks];
  const int pack = static_cast<int>(threadIdx.x) % kSumPacks;
  const int slot = static_cast<int>(threadIdx.x) / kSumPacks;
  const int at = (static_cast<int>(blockIdx.x) * kSumPacks + pack) * 4;
  const int all = task.all(channels), of_three = task.of_three(channels);
  const bool three = at < of_three;
  const int own = three ? at : at - of_three;
  const bool* const live = three ? task.three.live : task.one.live;
  const int edge = own / ((three ? 9 : 1) * channels * channels);
  // The sums of an edge that is not live were never written.
  const bool there = live == nullptr || live[edge];
  Quad sum{};
#pragma unroll 4
  for (int slice = slot; slice < (there ? slices : 0); slice += kSumSlots) {
    const Quad more = Quad::load(task.sums + static_cast<int64_t>(slice) * all + at);
#pragma unroll
    for (int v = 0; v < 4; ++v) sum.lane[v] += more.lane[v];
  }
  sum.store(sums[slot][pack].element);
  __syncthreads();
  if (slot != 0) return;
#pragma unroll
  for (int other = 1; other < kSumSlots; ++other) {
    const Quad more = Quad::of(sums[other][pack]);
#pragma unroll
    for (int v = 0; v < 4; ++v) sum.lane[v] += more.lane[v];
  }
  const Pack<T, 4> rounded{{sum.lane[0], sum.lane[1], sum.lane[2], sum.lane[3]}};
  if (three) {
    rounded.store(dw_three + at);
  } else {
    rounded.store(dw_one + at - of_three);
  }
}

// ---- host ----

template <class T, int C>
const char* launch_weights(WeightsTask<T> task, T* dw_three, T* dw_one, void* stream) {
  using S = WeightsShape<T, C>;
  Device device;
  if (const char* const error = read_device(&device); error != nullptr) return error;
  const auto bytes = static_cast<size_t>(S::stage_bytes(task.tiles));
  task.stages = stages_of(bytes, sizeof(Places), device);
  if (task.stages == 0) return "a block has too little shared memory";
  const int alike = S::alike(task.three.edges, task.one.edges);
  const int slices = slices_of(task.tiles.count(), alike);
  const char* const error = launch(
      weights_kernel<T, C>, dim3(static_cast<unsigned>(slices), static_cast<unsigned>(alike), 1),
      dim3(kThreads, 1, 1), bytes * static_cast<size_t>(task.stages), stream, task);
  if (error != nullptr) return error;
  return launch(sum_kernel<T>, dim3(static_cast<unsigned>(task.all(C) / (4 * kSumPacks)), 1, 1),
                dim3(kSumPacks * kSumSlots, 1, 1), 0, stream, task, C, slices, dw_three, dw_one);
}

}  // namespace
}  // namespace snsoftmax
