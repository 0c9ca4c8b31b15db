// The mixture's backward on CUDA: sums, their merge, and the gradients of the maps.
#pragma once

#include <cstdint>

#include "mixture_layout_cuda.h"
#include "mixture_math.h"

namespace snsoftmax {
namespace {

/// partials[chunk][1 + maps][channels] = G, S_k, X_l. Grid: chunk, tile, group of kMaps maps; the
/// first group adds up G too.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    sums(const __grid_constant__ MixtureArgs args, const Layout layout, int maps,
         const Opmath<T>* mean, MixtureMap grad, double* partials) {
  using S = Opmath<T>;
  __shared__ double values[V][kThreads];
  const Place place(layout);
  const Range range(args.pixels, layout.chunks);
  const int first = static_cast<int>(blockIdx.z) * kMaps;
  const int64_t channel = place.pack * V;
  const int me = static_cast<int>(threadIdx.x);

  Pack<S, V> shift[kMaps] = {};
  S total[1 + kMaps][V] = {};
  if (place.active) {
#pragma unroll
    for (int m = 0; m < kMaps; ++m) {
      if (first + m < args.normalized) {
        shift[m] = coefficients<S, V>(mean + (first + m) * args.channels, channel);
      }
    }
    for (int64_t p = range.begin + place.lane; p < range.end; p += layout.lanes) {
      const Pack<T, V> g = load<T, V>(grad, p, channel);
#pragma unroll
      for (int v = 0; v < V; ++v) total[0][v] += g.lane[v];
#pragma unroll
      for (int m = 0; m < kMaps; ++m) {
        if (first + m >= maps) continue;
        const Pack<T, V> y = load<T, V>(args.maps[first + m], p, channel);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          total[1 + m][v] += g.lane[v] * (y.lane[v] - shift[m].lane[v]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m <= kMaps; ++m) {
    const int row = m == 0 ? 0 : first + m;  // of the partials
    if (row > maps || (m == 0 && first > 0)) continue;
#pragma unroll
    for (int v = 0; v < V; ++v) values[v][me] = static_cast<double>(total[m][v]);
    tree(place.lane, layout.lanes, [&](int to, int from) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        values[v][to * layout.tile + place.tile] += values[v][from * layout.tile + place.tile];
      }
    });
    if (place.active && place.lane == 0) {
      double* const to =
          partials + (static_cast<int64_t>(blockIdx.x) * (1 + maps) + row) * args.channels;
#pragma unroll
      for (int v = 0; v < V; ++v) to[channel + v] = values[v][me];
    }
  }
}

/// Adds up the chunks, and writes what is not null: dw, the lines [3][K][channels], and the totals
/// [1 + K][channels]. Grid: map. `lanes` chunks are read side by side for each tile of channels.
template <class S>
__global__ void __launch_bounds__(kThreads)
    merge_sums(const __grid_constant__ MixtureArgs args, const Layout layout, int maps,
               int64_t chunks, const double* partials, const S* weights, const S* rstd,
               bool training, S* lines, double* totals, S* grad_weights) {
  __shared__ double g[kThreads];
  __shared__ double gy[kThreads];
  __shared__ double dw[kThreads];
  const int map = static_cast<int>(blockIdx.x);
  const int me = static_cast<int>(threadIdx.x);
  const bool normalised = map < args.normalized;
  double total = 0.0;
  for (int64_t tile = 0; tile < layout.tiles; ++tile) {
    const Place place(layout);
    const int64_t channel = tile * layout.tile + place.tile;
    const bool active = place.lane < layout.lanes && channel < args.channels;
    g[me] = 0.0;
    gy[me] = 0.0;
    if (active) {
      for (int64_t j = place.lane; j < chunks; j += layout.lanes) {
        const double* const chunk = partials + j * (1 + maps) * args.channels + channel;
        g[me] += chunk[0];
        gy[me] += chunk[(1 + map) * args.channels];
      }
    }
    tree(place.lane, layout.lanes, [&](int to, int from) {
      g[to * layout.tile + place.tile] += g[from * layout.tile + place.tile];
      gy[to * layout.tile + place.tile] += gy[from * layout.tile + place.tile];
    });
    if (active && place.lane == 0) {
      const int64_t i = map * args.channels + channel;
      const double scale = normalised ? static_cast<double>(rstd[i]) : 1.0;
      total += scale * gy[me];
      if (normalised && totals != nullptr) {
        if (map == 0) totals[channel] = g[me];
        totals[args.channels + i] = gy[me];
      }
      if (normalised && lines != nullptr) {
        const int64_t values = args.normalized * args.channels;
        const auto line =
            GradientLine<S>::of(static_cast<double>(weights[map]), scale, training ? g[me] : 0.0,
                                training ? gy[me] : 0.0, static_cast<double>(args.pixels));
        lines[i] = line.slope;
        lines[values + i] = line.tilt;
        lines[2 * values + i] = line.shift;
      }
    }
  }
  dw[me] = total;
  tree(me, kThreads, [&](int to, int from) { dw[to] += dw[from]; });
  if (grad_weights != nullptr && me == 0) grad_weights[map] = static_cast<S>(dw[0]);
}

/// Grid: kPixels * lanes pixels, tile.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    write(const __grid_constant__ MixtureArgs args, const Layout layout, const Opmath<T>* weights,
          const Opmath<T>* mean, const Opmath<T>* lines, MixtureMap grad,
          const __grid_constant__ MixtureGradients gradients) {
  using S = Opmath<T>;
  const Place place(layout);
  if (!place.active) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kPixels * layout.lanes + place.lane;
  const int64_t channel = place.pack * V;
  const int64_t values = args.normalized * args.channels;
  Pack<T, V> g[kPixels];
#pragma unroll
  for (int u = 0; u < kPixels; ++u) {
    const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
    if (p < args.pixels) g[u] = load<T, V>(grad, p, channel);
  }
  for (int i = 0; i < args.normalized + args.plain; ++i) {
    const MixtureMap& to = gradients.maps[i];
    if (to.data == nullptr) continue;
    const bool accumulate = (gradients.accumulate >> i & 1) != 0;
    const bool normalised = i < args.normalized;
    Pack<S, V> shift{};
    Pack<S, V> slope;
    Pack<S, V> tilt{};
    Pack<S, V> constant{};
    if (normalised) {
      const int64_t row = i * args.channels;
      shift = coefficients<S, V>(mean + row, channel);
      slope = coefficients<S, V>(lines + row, channel);
      tilt = coefficients<S, V>(lines + values + row, channel);
      constant = coefficients<S, V>(lines + 2 * values + row, channel);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) slope.lane[v] = weights[i];
    }
#pragma unroll
    for (int u = 0; u < kPixels; ++u) {
      const int64_t p = first + static_cast<int64_t>(u) * layout.lanes;
      if (p >= args.pixels) break;
      Pack<T, V> dy;
      if (normalised) {
        const Pack<T, V> y = load<T, V>(args.maps[i], p, channel);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          dy.lane[v] = normalized_gradient(g[u].lane[v], y.lane[v], shift.lane[v], slope.lane[v],
                                           tilt.lane[v], constant.lane[v]);
        }
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) dy.lane[v] = slope.lane[v] * g[u].lane[v];
      }
      if (accumulate) {
        const Pack<T, V> before = load<T, V>(to, p, channel);
#pragma unroll
        for (int v = 0; v < V; ++v) dy.lane[v] += before.lane[v];
      }
      dy.store(static_cast<T*>(to.data) + p * to.stride + channel);
    }
  }
}

}  // namespace
}  // namespace snsoftmax
