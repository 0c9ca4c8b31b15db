// The mixture's forward on CUDA: statistics, their merge, and the sum of the maps.
#pragma once

#include <cstdint>

#include "mixture_layout_cuda.h"
#include "mixture_math.h"

namespace snsoftmax {
namespace {

/// partials[chunk][2][K][channels] = mean, sum of squared deviations. Grid: chunk, tile, map.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    statistics(const __grid_constant__ MixtureArgs args, const Layout layout, double* partials) {
  using S = Opmath<T>;
  __shared__ double count[kThreads];
  __shared__ double mean[V][kThreads];
  __shared__ double m2[V][kThreads];
  const Place place(layout);
  const Range range(args.pixels, layout.chunks);
  const int map = static_cast<int>(blockIdx.z);
  const int64_t channel = place.pack * V;
  const int me = static_cast<int>(threadIdx.x);

  // Shifted by the thread's first value.
  int64_t pixels = 0;
  Pack<T, V> shift{};
  S sum[V] = {};
  S squares[V] = {};
  if (place.active) {
    for (int64_t p = range.begin + place.lane; p < range.end; p += layout.lanes, ++pixels) {
      const Pack<T, V> y = load<T, V>(args.maps[map], p, channel);
      if (pixels == 0) shift = y;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const S d = y.lane[v] - shift.lane[v];
        sum[v] += d;
        squares[v] += d * d;
      }
    }
  }
  count[me] = static_cast<double>(pixels);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    Moments moments{0.0, 0.0, 0.0};
    if (pixels > 0) moments = Moments::of(count[me], shift.lane[v], sum[v], squares[v]);
    mean[v][me] = moments.mean;
    m2[v][me] = moments.m2;
  }
  tree(place.lane, layout.lanes, [&](int to_lane, int from_lane) {
    const int to = to_lane * layout.tile + place.tile;
    const int from = from_lane * layout.tile + place.tile;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      Moments moments{count[to], mean[v][to], m2[v][to]};
      moments.merge({count[from], mean[v][from], m2[v][from]});
      mean[v][to] = moments.mean;
      m2[v][to] = moments.m2;
    }
    count[to] += count[from];
  });
  if (place.active && place.lane == 0) {
    const int64_t values = args.normalized * args.channels;
    double* const to = partials + blockIdx.x * 2 * values + map * args.channels + channel;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      to[v] = mean[v][me];
      to[values + v] = m2[v][me];
    }
  }
}

/// Grid: 1, tile of channels, map. The lanes take the chunks in turn, then merge in a tree.
template <class S>
__global__ void __launch_bounds__(kThreads)
    merge_statistics(const __grid_constant__ MixtureArgs args, const Layout layout, int64_t chunks,
                     const double* partials, const __grid_constant__ MixtureRunning running,
                     bool training, double momentum, double eps, S* mean, S* rstd) {
  __shared__ double count[kThreads];
  __shared__ double means[kThreads];
  __shared__ double m2[kThreads];
  const Place place(layout);
  const int map = static_cast<int>(blockIdx.z);
  const int64_t values = args.normalized * args.channels;
  const int64_t i = map * args.channels + place.pack;
  const int me = static_cast<int>(threadIdx.x);
  if (!training) {
    if (place.active && place.lane == 0) {
      mean[i] = static_cast<const S*>(running.mean[map])[place.pack];
      const S variance = static_cast<const S*>(running.var[map])[place.pack];
      rstd[i] = static_cast<S>(inverse_deviation(static_cast<double>(variance), eps));
    }
    return;
  }
  Moments moments{0.0, 0.0, 0.0};
  if (place.active) {
    for (int64_t j = place.lane; j < chunks; j += layout.lanes) {
      const int64_t pixels = args.pixels * (j + 1) / chunks - args.pixels * j / chunks;
      const double* const chunk = partials + j * 2 * values;
      moments.merge({static_cast<double>(pixels), chunk[i], chunk[values + i]});
    }
  }
  count[me] = moments.count;
  means[me] = moments.mean;
  m2[me] = moments.m2;
  tree(place.lane, layout.lanes, [&](int to_lane, int from_lane) {
    const int to = to_lane * layout.tile + place.tile;
    const int from = from_lane * layout.tile + place.tile;
    Moments merged{count[to], means[to], m2[to]};
    merged.merge({count[from], means[from], m2[from]});
    count[to] = merged.count;
    means[to] = merged.mean;
    m2[to] = merged.m2;
  });
  if (place.active && place.lane == 0) {
    moments = {count[me], means[me], m2[me]};
    mean[i] = static_cast<S>(moments.mean);
    rstd[i] = static_cast<S>(inverse_deviation(moments.variance(), eps));
    if (running.mean[map] != nullptr) {
      update_running(static_cast<S*>(running.mean[map]) + place.pack, momentum, moments.mean);
      update_running(static_cast<S*>(running.var[map]) + place.pack, momentum,
                     moments.unbiased_variance());
    }
  }
}

/// Grid: kPixels * lanes pixels, tile.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    combine(const __grid_constant__ MixtureArgs args, const Layout layout, const Opmath<T>* weights,
            const Opmath<T>* mean, const Opmath<T>* rstd, MixtureMap out, MixtureMap rectified) {
  using S = Opmath<T>;
  const Place place(layout);
  if (!place.active) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kPixels * layout.lanes + place.lane;
  const int64_t channel = place.pack * V;
  Pack<T, V> sum[kPixels] = {};
  for (int i = 0; i < args.normalized + args.plain; ++i) {
    const bool normalised = i < args.normalized;
    Pack<S, V> shift{};
    Pack<S, V> scale;
    const S weight = weights[i];
    if (normalised) {
      shift = coefficients<S, V>(mean + i * args.channels, channel);
      scale = coefficients<S, V>(rstd + i * args.channels, channel);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) scale.lane[v] = normalised ? weight * scale.lane[v] : weight;
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
      if (p >= args.pixels) break;
      const Pack<T, V> y = load<T, V>(args.maps[i], p, channel);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[u].lane[v] = add_normalized(sum[u].lane[v], y.lane[v], shift.lane[v], scale.lane[v]);
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
