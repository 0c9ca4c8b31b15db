// The mixture's forward on CUDA: statistics, their merge, and the sum of the maps.
#pragma once

#include <cstdint>

#include "mixture/mixture_layout_cuda.h"
#include "mixture/mixture_math.h"
#include "mixture/mixture_reduce_cuda.h"

namespace snsoftmax {
namespace {

/// partials[chunk][2][K][channels] = mean, sum of squared deviations. Grid: chunk, tile, map.
template <class T, int V>
__global__ void __launch_bounds__(kLean, 2)
    statistics(const __grid_constant__ MixtureArgs args, const Layout layout, const Chunks chunks,
               const __grid_constant__ MixtureMoments known, double* partials) {
  using S = Opmath<T>;
  using Sums = Columns<double, 2, V>;
  constexpr int kPixelsAhead = 4;
  __shared__ typename Sums::Memory memory;
  const Place place(layout);
  const Range range(chunks, blockIdx.x);
  const int map_index = static_cast<int>(blockIdx.z);
  if (known.of[map_index] != nullptr) return;
  const MixtureMap& map = args.maps[map_index];
  const int64_t channel = place.pack * V;

  // In opmath shifted by the thread's first value; then, in double, by the chunk's first one, which
  // the threads share: what is left is to add up.
  double total[2][V] = {};
  if (place.active && range.begin + place.lane < range.end) {
    const Pack<T, V> origin = Pack<T, V>::of(read<T, V>(map, range.begin, channel));
    int pixels = 0;
    Pack<T, V> shift{};
    S sum[V] = {};
    S squares[V] = {};
    for (int64_t p = range.begin + place.lane; p < range.end; p += kPixelsAhead * layout.lanes) {
      typename Pack<T, V>::Memory ahead[kPixelsAhead];
#pragma unroll
      for (int u = 0; u < kPixelsAhead; ++u) {
        if (p + u * layout.lanes < range.end) {
          ahead[u] = read<T, V>(map, p + u * layout.lanes, channel);
        }
      }
      if (pixels == 0) shift = Pack<T, V>::of(ahead[0]);
#pragma unroll
      for (int u = 0; u < kPixelsAhead; ++u) {
        if (p + u * layout.lanes >= range.end) continue;
        const Pack<T, V> y = Pack<T, V>::of(ahead[u]);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const S d = y.lane[v] - shift.lane[v];
          sum[v] += d;
          squares[v] += d * d;
        }
        ++pixels;
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const double delta = static_cast<double>(shift.lane[v]) - static_cast<double>(origin.lane[v]);
      const double moved = pixels * delta;
      total[0][v] = sum[v] + moved;
      total[1][v] = squares[v] + delta * (2.0 * sum[v] + moved);
    }
  }
  const Sums sums(layout, place, memory, total);
  const int64_t values = args.normalized * args.channels;
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * sums.width();
  for (int i = static_cast<int>(threadIdx.x); i < sums.width(); i += kThreads) {
    if (tile + i >= args.channels || range.begin >= range.end) break;
    const T* const origin = static_cast<const T*>(map.data) + range.begin * map.stride + tile + i;
    const Moments moments =
        Moments::of(static_cast<double>(range.end - range.begin),
                    static_cast<double>(to_opmath(*origin)), sums.sum(0, i), sums.sum(1, i));
    double* const to = partials + blockIdx.x * 2 * values + map_index * args.channels + tile + i;
    to[0] = moments.mean;
    to[values] = moments.m2;
  }
}

/// Grid: kColumns channels, map.
template <class S>
__global__ void __launch_bounds__(kLean, 2)
    merge_statistics(const __grid_constant__ MixtureArgs args, const Chunks chunks,
                     const double* partials, const __grid_constant__ MixtureMoments known,
                     const __grid_constant__ MixtureRunning running, bool training, double momentum,
                     double eps, S* mean, S* rstd) {
  __shared__ MergeMemory<2> memory;
  const int map = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) / kColumns;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  const int64_t values = args.normalized * args.channels;
  const int64_t i = map * args.channels + channel;
  const bool active = channel < args.channels;
  if (!training) {
    if (active && lane == 0) {
      mean[i] = static_cast<const S*>(running.mean[map])[channel];
      const S variance = static_cast<const S*>(running.var[map])[channel];
      rstd[i] = static_cast<S>(inverse_deviation(static_cast<double>(variance), eps));
    }
    return;
  }
  // Shifted by the first chunk's mean, the chunks' moments add up.
  double origin = 0.0;
  double total[2] = {};
  const double* const given = known.of[map];
  if (active && given == nullptr && args.pixels > 0) {
    origin = partials[i];
    const int64_t step = int64_t{kMergeLanes} * 2 * values;
    const double* chunk = partials + lane * 2 * values + i;
    for (int64_t first = lane; first < chunks.count; first += kAhead * kMergeLanes) {
      double means[kAhead];
      double m2[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u, chunk += step) {
        const bool there = first + u * kMergeLanes < chunks.count;
        means[u] = there ? chunk[0] : origin;
        m2[u] = there ? chunk[values] : 0.0;
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const double delta = means[u] - origin;
        const double moved = static_cast<double>(chunks.pixels(first + u * kMergeLanes)) * delta;
        total[0] += moved;
        total[1] += m2[u] + moved * delta;
      }
    }
  }
  merge_lanes<2>(total, memory);
  if (!active || lane > 0) return;
  Moments moments{0.0, 0.0, 0.0};
  if (given != nullptr) {
    moments = {static_cast<double>(args.pixels), given[channel], given[args.channels + channel]};
  } else if (args.pixels > 0) {
    moments = Moments::of(static_cast<double>(args.pixels), origin, total[0], total[1]);
  }
  mean[i] = static_cast<S>(moments.mean);
  rstd[i] = static_cast<S>(inverse_deviation(moments, eps));
  if (running.mean[map] != nullptr && !moments.left_out()) {
    update_running(static_cast<S*>(running.mean[map]) + channel, momentum, moments.mean);
    update_running(static_cast<S*>(running.var[map]) + channel, momentum,
                   moments.unbiased_variance());
  }
}

/// Grid: kPixels * lanes pixels, tile.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    combine(const __grid_constant__ MixtureArgs args, const Layout layout,
            const Opmath<T>* __restrict__ weights, const Opmath<T>* __restrict__ mean,
            const Opmath<T>* __restrict__ rstd, MixtureMap out, MixtureMap rectified) {
  using S = Opmath<T>;
  const Place place(layout);
  if (!place.active) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kPixels * layout.lanes + place.lane;
  const int64_t channel = place.pack * V;
  const int maps = args.normalized + args.plain;
  Pack<T, V> sum[kPixels] = {};
  for (int i = 0; i < maps; i += kMaps<V>) {
    typename Pack<T, V>::Memory ahead[kMaps<V>][kPixels];
    Pack<S, V> shift[kMaps<V>] = {};
    Pack<S, V> scale[kMaps<V>];
    bool counts[kMaps<V>];
#pragma unroll
    for (int m = 0; m < kMaps<V>; ++m) {
      const S weight = i + m < maps ? weights[i + m] : S(0);
      counts[m] = weight != S(0);
      if (!counts[m]) continue;
#pragma unroll
      for (int u = 0; u < kPixels; ++u) {
        const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
        if (p < args.pixels) ahead[m][u] = read<T, V>(args.maps[i + m], p, channel);
      }
      const bool normalised = i + m < args.normalized;
      if (normalised) {
        shift[m] = coefficients<S, V>(mean + (i + m) * args.channels + channel);
        scale[m] = coefficients<S, V>(rstd + (i + m) * args.channels + channel);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        scale[m].lane[v] = normalised ? weight * scale[m].lane[v] : weight;
      }
    }
#pragma unroll
    for (int m = 0; m < kMaps<V>; ++m) {
      if (!counts[m]) continue;
#pragma unroll
      for (int u = 0; u < kPixels; ++u) {
        if (first + static_cast<int64_t>(u) * layout.lanes >= args.pixels) break;
        const Pack<T, V> y = Pack<T, V>::of(ahead[m][u]);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum[u].lane[v] =
              add_normalized(sum[u].lane[v], y.lane[v], shift[m].lane[v], scale[m].lane[v]);
        }
      }
    }
  }
#pragma unroll
  for (int u = 0; u < kPixels; ++u) {
    const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
    if (p >= args.pixels) break;
    sum[u].store(static_cast<T*>(out.data) + p * out.stride + channel);
    if (rectified.data != nullptr) {
#pragma unroll
      for (int v = 0; v < V; ++v) sum[u].lane[v] = sum[u].lane[v] < S(0) ? S(0) : sum[u].lane[v];
      sum[u].store(static_cast<T*>(rectified.data) + p * rectified.stride + channel);
    }
  }
}

}  // namespace
}  // namespace snsoftmax
