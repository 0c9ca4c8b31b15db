// The node's convolutions on CUDA: tensor cores where they fit (node_convolve_tile_cuda.h), a plain
// kernel for everything else, and the moments of all tiles merged by a second launch.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "node_convolve/node_convolve.h"
#include "node_convolve/node_convolve_map_cuda.h"
#include "node_convolve/node_convolve_tile_cuda.h"
#include "node_convolve/node_convolve_weights_cuda.h"

namespace snsoftmax {
namespace {

constexpr int kPlainColumns = 32;  // output channels of a block at once

/// Block [tile, edge of both operations]: a thread a pixel, for kPlainColumns channels in turn.
template <class T>
__global__ void __launch_bounds__(kThreads) plain_kernel(const __grid_constant__ Task<T> task) {
  using S = Opmath<T>;
  __shared__ S sums[kTilePixels][kPlainColumns + 1];
  const bool three = static_cast<int>(blockIdx.y) < task.three.edges;
  const int edge = static_cast<int>(blockIdx.y) - (three ? 0 : task.three.edges);
  const bool* const live = three ? task.three.live : task.one.live;
  if (live != nullptr && !live[edge]) return;
  const T* const weight = three ? task.three.weight : task.one.weight;
  T* const y = three ? task.three.y : task.one.y;
  const int edges = three ? task.three.edges : task.one.edges;
  const int first = (three ? task.three.first : task.one.first) + edge * task.channels;
  const int taps = three ? 9 : 1;
  const Tiles& tiles = task.tiles;
  const int tile = static_cast<int>(blockIdx.x);
  const Tiles::Corner corner = tiles.corner(tile);
  const int me = static_cast<int>(threadIdx.x);
  const int window = tiles.window(me);
  const int pixel = tiles.pixel(corner, me);
  const int covered = tiles.covered(tile);
#pragma unroll 1
  for (int begin = 0; begin < task.channels; begin += kPlainColumns) {
    const int columns = smaller(kPlainColumns, task.channels - begin);
#pragma unroll 1
    for (int column = 0; column < columns; ++column) {
      S sum(0);
      const int64_t row = static_cast<int64_t>(edge) * task.channels + begin + column;
#pragma unroll 1
      for (int t = 0; t < taps; ++t) {
        const int tap = three ? t : 4;
        const int from = tiles.source(corner, window + tap / 3 * tiles.halo_columns() + tap % 3);
        if (from < 0) continue;
        const T* const w = weight + (row * taps + t) * task.channels;
        const T* const x = task.x + static_cast<int64_t>(from) * task.channels;
        for (int c = 0; c < task.channels; ++c) {
          const S value = to_opmath(x[c]);
          sum += (value < S(0) ? S(0) : value) * to_opmath(w[c]);
        }
      }
      if (pixel >= 0) {
        T* const to = y + (static_cast<int64_t>(pixel) * edges + edge) * task.channels + begin;
        store_one(to + column, sum);
        sum = to_opmath(to[column]);  // as it is stored
      }
      sums[me][column] = sum;
    }
    __syncthreads();
    if (me < columns) {
      S mean(0), m2(0);
      for (int p = 0; p < kTilePixels; ++p) {
        if (tiles.pixel(corner, p) >= 0) mean += sums[p][me];
      }
      mean /= static_cast<S>(covered);
      for (int p = 0; p < kTilePixels; ++p) {
        const S away = sums[p][me] - mean;
        if (tiles.pixel(corner, p) >= 0) m2 += away * away;
      }
      task.moments[static_cast<int64_t>(tile) * task.columns + first + begin + me] = {mean, m2};
    }
    __syncthreads();
  }
}

// ---- merging the tiles: a block holds kMergeColumns channels, kSlots tiles side by side ----

constexpr int kMergeThreads = 512;
constexpr int kMergeColumns = 16;
constexpr int kSlots = kMergeThreads / kMergeColumns;

/// Where an operation's moments go.
struct Merged {
  const bool* live;
  double* moments;
};

/// The sum over the block's slots of `x`, which all of the column's threads get.
__device__ __forceinline__ double over_slots(double x, double (&memory)[kSlots][kMergeColumns]) {
  const int column = static_cast<int>(threadIdx.x) % kMergeColumns;
  __syncthreads();
  memory[threadIdx.x / kMergeColumns][column] = x;
  __syncthreads();
  double sum = 0.0;
#pragma unroll 8
  for (int slot = 0; slot < kSlots; ++slot) sum += memory[slot][column];
  return sum;
}

template <class S>
__global__ void __launch_bounds__(kMergeThreads, 1)
    merge_kernel(const Tiles tiles, int channels, int columns, int of_three,
                 const TileMoments<S>* moments, const Merged three, const Merged one) {
  __shared__ double memory[kSlots][kMergeColumns];
  const int column =
      static_cast<int>(blockIdx.x) * kMergeColumns + static_cast<int>(threadIdx.x) % kMergeColumns;
  const int slot = static_cast<int>(threadIdx.x) / kMergeColumns;
  const bool is_three = column < of_three;
  const int at = is_three ? column : column - of_three;
  const bool* const live = is_three ? three.live : one.live;
  const int edge = at / channels;
  const bool there = column < columns && (live == nullptr || live[edge]);
  // The moments of a column that is not live were never written.
  const int count = there ? tiles.count() : 0;
  const double pixels = static_cast<double>(tiles.images) * tiles.height * tiles.width;
  double sum = 0.0;
#pragma unroll 4
  for (int tile = slot; tile < count; tile += kSlots) {
    sum += static_cast<double>(moments[static_cast<int64_t>(tile) * columns + column].mean) *
           tiles.covered(tile);
  }
  const double mean = over_slots(sum, memory) / pixels;
  double squares = 0.0;
#pragma unroll 4
  for (int tile = slot; tile < count; tile += kSlots) {
    const TileMoments<S> of_tile = moments[static_cast<int64_t>(tile) * columns + column];
    const double away = static_cast<double>(of_tile.mean) - mean;
    squares += static_cast<double>(of_tile.m2) + away * away * tiles.covered(tile);
  }
  const double m2 = over_slots(squares, memory);
  if (slot != 0 || column >= columns) return;
  double* const to = (is_three ? three.moments : one.moments) + at + edge * channels;
  to[0] = mean;
  to[channels] = there ? m2 : -1.0;
}

// ---- host ----

Tiles tiles_of(const NodeConvolveArgs& args) {
  return snsoftmax::tiles_of(static_cast<int>(args.images), static_cast<int>(args.height),
                             static_cast<int>(args.width));
}

/// How many blocks share a tile's passes: as many as give every multiprocessor two blocks.
int parts_of(int tiles, int passes, int multiprocessors) {
  return std::clamp(ceil_of(2 * multiprocessors, tiles), 1, passes);
}

/// Null, or what no kernel counts.
const char* too_large(const NodeConvolveArgs& args, int64_t three, int64_t one) {
  if (three > kMaxNodeEdgesCuda || one > kMaxNodeEdgesCuda) {
    return "an operation has more than 32 edges";
  }
  // Tiles reach beyond the map by less than a tile in each direction.
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  const bool large =
      (args.images + kTilePixels) * (args.height + kTilePixels) * (args.width + kTilePixels) >
          kMost ||
      args.channels > kMost / (9 * kMaxNodeEdgesCuda);
  return large ? "the map has too many pixels or channels" : nullptr;
}

template <class T>
Operation<T> operation_of(const NodeConvolution& of, int first) {
  return {{of.live, static_cast<int>(of.edges)},
          static_cast<const T*>(of.weight),
          static_cast<T*>(of.y),
          first};
}

template <class T, int C>
const char* launch_tensor(const Task<T>& task, const Device& device, void* stream) {
  const int tiles = task.tiles.count();
  constexpr int kEdges = Shape<T, C>::kEdges;
  const int passes = ceil_of(task.three.edges, kEdges) + ceil_of(task.one.edges, kEdges);
  const int parts = parts_of(tiles, passes, device.multiprocessors);
  return launch(tensor_kernel<T, C>,
                dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(parts), 1),
                dim3(kThreads, 1, 1), Shape<T, C>::bytes(task.tiles), stream, task);
}

/// By tensor cores if they have T and the number of channels, and the tile fits; else plainly.
template <class T>
const char* launch_convolutions(const Task<T>& task, bool aligned, void* stream) {
  if constexpr (std::is_same<T, float>::value || std::is_same<T, __nv_bfloat16>::value) {
    Device device;
    if (const char* const error = read_device(&device); error != nullptr) return error;
    const auto fits = [&](auto channels) {
      using S = Shape<T, decltype(channels)::value>;
      return aligned && task.channels == decltype(channels)::value &&
             S::bytes(task.tiles) + sizeof(Parts) <= static_cast<size_t>(device.shared_bytes);
    };
    if (fits(std::integral_constant<int, 16>{})) return launch_tensor<T, 16>(task, device, stream);
    if (fits(std::integral_constant<int, 32>{})) return launch_tensor<T, 32>(task, device, stream);
    if (fits(std::integral_constant<int, 64>{})) return launch_tensor<T, 64>(task, device, stream);
  }
  const dim3 grid(static_cast<unsigned>(task.tiles.count()),
                  static_cast<unsigned>(task.three.edges + task.one.edges), 1);
  return launch(plain_kernel<T>, grid, dim3(kThreads, 1, 1), 0, stream, task);
}

// ---- gradients ----

/// f(T{}, C) for what tensor cores multiply.
template <class F>
const char* with_products(const NodeConvolveArgs& args, const F& f) {
  const auto with_channels = [&](auto type) -> const char* {
    if (args.channels == 16) return f(type, std::integral_constant<int, 16>{});
    if (args.channels == 32) return f(type, std::integral_constant<int, 32>{});
    if (args.channels == 64) return f(type, std::integral_constant<int, 64>{});
    return "tensor cores multiply 16, 32 or 64 channels";
  };
  if (args.dtype == DType::kFloat32) return with_channels(float{});
  if (args.dtype == DType::kBFloat16) return with_channels(__nv_bfloat16{});
  return "tensor cores multiply bfloat16 or float";
}

template <class T>
Gradients<T> gradients_of(const NodeConvolveGradients& of) {
  return {{of.live, static_cast<int>(of.edges)},
          static_cast<const T*>(of.y),
          static_cast<const T*>(of.weight)};
}

/// What all gradients need, checked.
const char* check_gradients(const NodeConvolveArgs& args, const void* x,
                            const NodeConvolveGradients& three, const NodeConvolveGradients& one) {
  for (const void* const memory : {x, three.y, three.weight, one.y, one.weight}) {
    if (!aligned(memory)) return "a map or kernel does not begin on 16 bytes";
  }
  return too_large(args, three.edges, one.edges);
}

}  // namespace

size_t node_convolve_workspace_cuda(const NodeConvolveArgs& args, int64_t edges) {
  const size_t opmath = args.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  if (args.pixels() == 0) return 0;
  return static_cast<size_t>(tiles_of(args).count() * edges * args.channels) * 2 * opmath;
}

const char* node_convolve_cuda(const NodeConvolveArgs& args, const void* x,
                               const NodeConvolution& three, const NodeConvolution& one,
                               void* workspace, void* stream) {
  const int64_t edges = three.edges + one.edges;
  if (args.pixels() * args.channels * edges == 0) return nullptr;
  if (const char* const error = too_large(args, three.edges, one.edges); error != nullptr) {
    return error;
  }
  return with_type<__half, __nv_bfloat16>(args.dtype, [&](auto type) -> const char* {
    using T = decltype(type);
    using S = Opmath<T>;
    const int of_three = static_cast<int>(three.edges * args.channels);
    const int columns = static_cast<int>(edges * args.channels);
    const Task<T> task{tiles_of(args),
                       static_cast<int>(args.channels),
                       columns,
                       static_cast<const T*>(x),
                       operation_of<T>(three, 0),
                       operation_of<T>(one, of_three),
                       static_cast<TileMoments<S>*>(workspace)};
    const bool whole = aligned(x) && aligned(three.weight) && aligned(three.y) &&
                       aligned(one.weight) && aligned(one.y);
    const char* const error = launch_convolutions(task, whole, stream);
    if (error != nullptr) return error;
    const auto merged = [](const NodeConvolution& of) { return Merged{of.live, of.moments}; };
    return launch(merge_kernel<S>,
                  dim3(static_cast<unsigned>(ceil_of(columns, kMergeColumns)), 1, 1),
                  dim3(kMergeThreads, 1, 1), 0, stream, task.tiles, task.channels, columns,
                  of_three, task.moments, merged(three), merged(one));
  });
}

size_t node_convolve_weights_workspace_cuda(const NodeConvolveArgs& args, int64_t of_three,
                                            int64_t of_one) {
  size_t bytes = 0;
  if (args.pixels() * (of_three + of_one) == 0) return bytes;
  with_products(args, [&](auto type, auto channels) -> const char* {
    constexpr int kChannels = decltype(channels)::value;
    const int alike = WeightsShape<decltype(type), kChannels>::alike(static_cast<int>(of_three),
                                                                     static_cast<int>(of_one));
    bytes = static_cast<size_t>(slices_of(tiles_of(args).count(), alike)) * sizeof(float) *
            static_cast<size_t>((9 * of_three + of_one) * kChannels * kChannels);
    return nullptr;
  });
  return bytes;
}

const char* node_convolve_weights_cuda(const NodeConvolveArgs& args, const void* x,
                                       const NodeConvolveGradients& three,
                                       const NodeConvolveGradients& one, void* dw_three,
                                       void* dw_one, void* workspace, void* stream) {
  if (args.pixels() * (three.edges + one.edges) == 0) return nullptr;
  if (const char* const error = check_gradients(args, x, three, one); error != nullptr) {
    return error;
  }
  return with_products(args, [&](auto type, auto channels) {
    using T = decltype(type);
    const WeightsTask<T> task{tiles_of(args),           0,
                              static_cast<const T*>(x), gradients_of<T>(three),
                              gradients_of<T>(one),     static_cast<float*>(workspace)};
    return launch_weights<T, decltype(channels)::value>(task, static_cast<T*>(dw_three),
                                                        static_cast<T*>(dw_one), stream);
  });
}

const char* node_convolve_map_cuda(const NodeConvolveArgs& args, const void* x,
                                   const NodeConvolveGradients& three,
                                   const NodeConvolveGradients& one, void* dx, void* stream) {
  if (args.pixels() == 0) return nullptr;
  if (const char* const error = check_gradients(args, x, three, one); error != nullptr) {
    return error;
  }
  return with_products(args, [&](auto type, auto channels) {
    using T = decltype(type);
    return launch_map<T, decltype(channels)::value>(
        MapTask<T>{tiles_of(args), 0, static_cast<const T*>(x), gradients_of<T>(three),
                   gradients_of<T>(one), static_cast<T*>(dx)},
        stream);
  });
}

}  // namespace snsoftmax
