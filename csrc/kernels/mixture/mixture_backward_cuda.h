// The mixture's backward on CUDA: sums, their merge, and the gradients of the maps.
#pragma once

#include <cstdint>

#include "mixture/mixture_layout_cuda.h"
#include "mixture/mixture_math.h"
#include "mixture/mixture_reduce_cuda.h"

namespace snsoftmax {
namespace {

/// partials[chunk][1 + maps][channels] = G, S_k, X_l. Grid: group of kMaps maps, tile, chunk, so
/// that the groups that read a gradient run close together; the first one adds up G too. Where
/// `weights` are given, S_k and X_l of a map of weight 0 are 0 and it is not read.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    sums(const __grid_constant__ MixtureArgs args, const Layout layout, const Chunks chunks,
         int maps, const Opmath<T>* weights, const Opmath<T>* mean, MixtureMap grad,
         double* partials) {
  using S = Opmath<T>;
  using Sums = Columns<S, 1 + kMaps<V>, V>;
  constexpr int kPixelsAhead = 2;
  __shared__ typename Sums::Memory memory;
  const Place place(layout);
  const Range range(chunks, blockIdx.z);
  const int first = static_cast<int>(blockIdx.x) * kMaps<V>;
  const int64_t channel = place.pack * V;
  bool counts[kMaps<V>];
#pragma unroll
  for (int m = 0; m < kMaps<V>; ++m) {
    counts[m] = first + m < maps && (weights == nullptr || weights[first + m] != S(0));
  }

  Pack<S, V> shift[kMaps<V>] = {};
  S total[1 + kMaps<V>][V] = {};
  if (place.active) {
#pragma unroll
    for (int m = 0; m < kMaps<V>; ++m) {
      if (first + m < args.normalized) {
        shift[m] = coefficients<S, V>(mean + (first + m) * args.channels + channel);
      }
    }
    for (int64_t p = range.begin + place.lane; p < range.end; p += kPixelsAhead * layout.lanes) {
      typename Pack<T, V>::Memory gradients[kPixelsAhead];
      typename Pack<T, V>::Memory ahead[kPixelsAhead][kMaps<V>];
#pragma unroll
      for (int u = 0; u < kPixelsAhead; ++u) {
        if (p + u * layout.lanes >= range.end) continue;
        gradients[u] = read<T, V>(grad, p + u * layout.lanes, channel);
#pragma unroll
        for (int m = 0; m < kMaps<V>; ++m) {
          if (!counts[m]) continue;
          ahead[u][m] = read<T, V>(args.maps[first + m], p + u * layout.lanes, channel);
        }
      }
#pragma unroll
      for (int u = 0; u < kPixelsAhead; ++u) {
        if (p + u * layout.lanes >= range.end) continue;
        const Pack<T, V> g = Pack<T, V>::of(gradients[u]);
#pragma unroll
        for (int v = 0; v < V; ++v) total[0][v] += g.lane[v];
#pragma unroll
        for (int m = 0; m < kMaps<V>; ++m) {
          if (!counts[m]) continue;
          const Pack<T, V> y = Pack<T, V>::of(ahead[u][m]);
#pragma unroll
          for (int v = 0; v < V; ++v) {
            total[1 + m][v] += g.lane[v] * (y.lane[v] - shift[m].lane[v]);
          }
        }
      }
    }
  }
  const Sums block(layout, place, memory, total);
  const int width = block.width();
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * width;
  for (int i = static_cast<int>(threadIdx.x); i < (1 + kMaps<V>)*width; i += kThreads) {
    const int m = i / width;
    const int column = i - m * width;
    const int row = m == 0 ? 0 : first + m;  // of the partials
    if (row > maps || (m == 0 && first > 0) || tile + column >= args.channels) continue;
    double* const chunk = partials + static_cast<int64_t>(blockIdx.z) * (1 + maps) * args.channels;
    chunk[row * args.channels + tile + column] = block.sum(m, column);
  }
}

/// dw of a map: every channel of every chunk is a term of one sum over the block.
template <class S>
__device__ __forceinline__ void merge_weight(const MixtureArgs& args, int map, int maps,
                                             int64_t chunks, const double* partials, const S* rstd,
                                             S* grad_weights) {
  __shared__ MergeMemory<1> memory;
  const int channels = static_cast<int>(args.channels);
  const bool normalised = map < args.normalized;
  int64_t j = static_cast<int>(threadIdx.x) / channels;
  int c = static_cast<int>(threadIdx.x) % channels;
  const int chunk_step = kThreads / channels;
  const int channel_step = kThreads % channels;
  double total[1] = {};
  while (j < chunks) {
    double terms[kAhead];
    S scales[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      terms[u] = j < chunks ? partials[(j * (1 + maps) + 1 + map) * channels + c] : 0.0;
      scales[u] = normalised ? rstd[static_cast<int64_t>(map) * channels + c] : S(1);
      j += chunk_step;
      c += channel_step;
      if (c >= channels) {
        c -= channels;
        ++j;
      }
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) total[0] += static_cast<double>(scales[u]) * terms[u];
  }
#pragma unroll
  for (int bit = kColumns / 2; bit > 0; bit /= 2) {
    total[0] += __shfl_xor_sync(0xffffffffu, total[0], bit);
  }
  merge_lanes<1>(total, memory);
  if (threadIdx.x == 0) grad_weights[map] = static_cast<S>(total[0]);
}

/// Adds up the chunks, and writes what is not null: dw, the lines [3][K][channels], and the totals
/// [1 + K][channels]. Grid: kColumns channels, then one more block for dw; map.
template <class S>
__global__ void __launch_bounds__(kLean, 2)
    merge_sums(const __grid_constant__ MixtureArgs args, int maps, int64_t chunks,
               const double* partials, const S* weights, const S* rstd, bool training, S* lines,
               double* totals, S* grad_weights) {
  __shared__ MergeMemory<2> memory;
  const int map = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) / kColumns;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kColumns;
  if (tile >= args.channels) {
    merge_weight(args, map, maps, chunks, partials, rstd, grad_weights);
    return;
  }
  if (map >= args.normalized) return;
  const int64_t channel = tile + threadIdx.x % kColumns;
  const bool active = channel < args.channels;
  double total[2] = {};  // G, S
  const int64_t step = int64_t{kMergeLanes} * (1 + maps) * args.channels;
  const double* chunk = partials + lane * (1 + maps) * args.channels + channel;
  for (int64_t first = lane; active && first < chunks; first += kAhead * kMergeLanes) {
    double g[kAhead];
    double gy[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u, chunk += step) {
      const bool there = first + u * kMergeLanes < chunks;
      g[u] = there ? chunk[0] : 0.0;
      gy[u] = there ? chunk[(1 + map) * args.channels] : 0.0;
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      total[0] += g[u];
      total[1] += gy[u];
    }
  }
  merge_lanes<2>(total, memory);
  if (!active || lane > 0) return;
  const int64_t i = map * args.channels + channel;
  if (totals != nullptr) {
    if (map == 0) totals[channel] = total[0];
    totals[args.channels + i] = total[1];
  }
  if (lines != nullptr) {
    const int64_t values = args.normalized * args.channels;
    const auto line = GradientLine<S>::of(
        static_cast<double>(weights[map]), static_cast<double>(rstd[i]), training ? total[0] : 0.0,
        training ? total[1] : 0.0, static_cast<double>(args.pixels));
    lines[i] = line.slope;
    lines[values + i] = line.tilt;
    lines[2 * values + i] = line.shift;
  }
}

/// Grid: kPixels * lanes pixels and kWritten maps, of which the latter change first, so that those
/// who read a gradient run close together; tile.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    write(const __grid_constant__ MixtureArgs args, const Layout layout,
          const Opmath<T>* __restrict__ weights, const Opmath<T>* __restrict__ mean,
          const Opmath<T>* __restrict__ lines, MixtureMap grad,
          const __grid_constant__ MixtureGradients gradients) {
  using S = Opmath<T>;
  using Memory = typename Pack<T, V>::Memory;
  constexpr int kPart = V < 4 ? V : 4;
  const Place place(layout);
  if (!place.active) return;
  const int maps = args.normalized + args.plain;
  const unsigned groups = static_cast<unsigned>((maps + kWritten - 1) / kWritten);
  const unsigned run = blockIdx.x / groups;
  const int map = static_cast<int>(blockIdx.x - run * groups) * kWritten;
  const int64_t first = static_cast<int64_t>(run) * kPixels * layout.lanes + place.lane;
  const int64_t channel = place.pack * V;
  const int64_t values = args.normalized * args.channels;
  Memory g[kPixels];
#pragma unroll
  for (int u = 0; u < kPixels; ++u) {
    const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
    if (p < args.pixels) g[u] = read<T, V>(grad, p, channel);
  }
#pragma unroll 1
  for (int i = map; i < map + kWritten && i < maps; ++i) {
    const MixtureMap& to = gradients.maps[i];
    if (to.data == nullptr) continue;
    const bool accumulate = (gradients.accumulate >> i & 1) != 0;
    const S weight = weights[i];
    // The gradient of a map of weight 0 is 0 whatever it holds.
    const bool normalised = i < args.normalized && weight != S(0);
    Memory y[kPixels];
    Memory before[kPixels];
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
      if (p >= args.pixels) continue;
      if (normalised) y[u] = read<T, V>(args.maps[i], p, channel);
      if (accumulate) before[u] = read<T, V>(to, p, channel);
    }
    Memory dy[kPixels];
    // A part of the pack at a time, for its coefficients' sake: they take most of the registers.
#pragma unroll
    for (int part = 0; part < V; part += kPart) {
      const int64_t at = i * args.channels + channel + part;
      Pack<S, kPart> shift{};
      Pack<S, kPart> slope;
      Pack<S, kPart> tilt{};
      Pack<S, kPart> constant{};
      if (normalised) {
        shift = coefficients<S, kPart>(mean + at);
        slope = coefficients<S, kPart>(lines + at);
        tilt = coefficients<S, kPart>(lines + values + at);
        constant = coefficients<S, kPart>(lines + 2 * values + at);
      } else {
#pragma unroll
        for (int v = 0; v < kPart; ++v) slope.lane[v] = weight;
      }
#pragma unroll
      for (int u = 0; u < kPixels; ++u) {
        if (first + static_cast<int64_t>(u) * layout.lanes >= args.pixels) continue;
#pragma unroll
        for (int v = 0; v < kPart; ++v) {
          const S of_out = to_opmath(g[u].element[part + v]);
          S d = slope.lane[v] * of_out;
          if (normalised) {
            d = normalized_gradient(of_out, to_opmath(y[u].element[part + v]), shift.lane[v],
                                    slope.lane[v], tilt.lane[v], constant.lane[v]);
          }
          if (accumulate) d += to_opmath(before[u].element[part + v]);
          store_one(&dy[u].element[part + v], d);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
      if (p < args.pixels) {
        *reinterpret_cast<Memory*>(static_cast<T*>(to.data) + p * to.stride + channel) = dy[u];
      }
    }
  }
}

}  // namespace
}  // namespace snsoftmax
