// The mixture on CUDA. A block holds a tile of channels, 16 bytes of them ("a pack") a thread, and
// as many pixels side by side as its threads allow. Three launches each way, however many maps:
//
//   forward    statistics of (chunk of pixels, map)     merge_statistics    combine
//   backward   sums of (chunk of pixels, four maps)     merge_sums          write
//
// Threads sum their pixels in opmath; everything across threads and chunks is double, in an order
// that the shapes fix. The maps' pointers travel in the kernels' parameters.
#include <cuda_bf16.h>

#include <algorithm>
#include <type_traits>

#include "launch.h"
#include "mixture.h"
#include "mixture_math.h"

namespace snsoftmax {
namespace {

constexpr int kThreads = 256;
constexpr int kPixels = 4;        // of one thread in `combine` and `write`
constexpr int kMaps = 4;          // read beside each gradient in `sums`
constexpr int64_t kChunks = 256;  // at most

// ---- element types ----

template <class T>
struct OpmathOf {
  using type = float;
};
template <>
struct OpmathOf<double> {
  using type = double;
};
template <class T>
using Opmath = typename OpmathOf<T>::type;

__device__ __forceinline__ float to_opmath(float x) { return x; }
__device__ __forceinline__ double to_opmath(double x) { return x; }
__device__ __forceinline__ float to_opmath(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_opmath(float x, float* to) { *to = x; }
__device__ __forceinline__ void from_opmath(double x, double* to) { *to = x; }
__device__ __forceinline__ void from_opmath(float x, __nv_bfloat16* to) {
  *to = __float2bfloat16_rn(x);
}

/// V adjacent channels in opmath.
template <class T, int V>
struct Pack {
  using S = Opmath<T>;
  S lane[V];

  struct alignas(V * sizeof(T)) Memory {
    T element[V];
  };

  static __device__ __forceinline__ Pack load(const T* from) {
    const Memory memory = *reinterpret_cast<const Memory*>(from);
    Pack pack;
#pragma unroll
    for (int v = 0; v < V; ++v) pack.lane[v] = to_opmath(memory.element[v]);
    return pack;
  }
  __device__ __forceinline__ void store(T* to) const {
    Memory memory;
#pragma unroll
    for (int v = 0; v < V; ++v) from_opmath(lane[v], &memory.element[v]);
    *reinterpret_cast<Memory*>(to) = memory;
  }
};

// ---- who holds what ----

struct Layout {
  int64_t packs;  // of a pixel
  int tile;       // packs of a pixel that a block holds
  int lanes;      // pixels side by side in a block
  int64_t tiles;  // blocks that share a pixel
  int64_t chunks;
};

Layout layout_of(const MixtureArgs& args, int pack) {
  Layout layout;
  layout.packs = args.channels / pack;
  layout.tile = static_cast<int>(std::min<int64_t>(layout.packs, kThreads));
  layout.lanes = kThreads / layout.tile;
  layout.tiles = (layout.packs + layout.tile - 1) / layout.tile;
  const int64_t worthwhile = args.pixels / (int64_t{8} * layout.lanes);
  layout.chunks = std::min(std::max<int64_t>(worthwhile, 1), kChunks);
  return layout;
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

struct Range {
  int64_t begin;
  int64_t end;

  /// Chunk blockIdx.x of the pixels.
  __device__ __forceinline__ Range(int64_t pixels, int64_t chunks)
      : begin(pixels * static_cast<int64_t>(blockIdx.x) / chunks),
        end(pixels * (static_cast<int64_t>(blockIdx.x) + 1) / chunks) {}
};

template <class T, int V>
__device__ __forceinline__ Pack<T, V> load(const MixtureMap& map, int64_t pixel, int64_t channel) {
  return Pack<T, V>::load(static_cast<const T*>(map.data) + pixel * map.stride + channel);
}

template <class S, int V>
__device__ __forceinline__ Pack<S, V> coefficients(const S* of_map, int64_t channel) {
  Pack<S, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.lane[v] = of_map[channel + v];
  return pack;
}

/// Combines the values of the lanes of a tile, in a tree; lane 0 then has the whole. Every thread
/// of the block calls it. `values[i * stride]` is lane i's, `combine(to, from)` takes indices.
template <class F>
__device__ __forceinline__ void tree(int lane, int lanes, const F& combine) {
  int width = 1;
  while (width < lanes) width *= 2;
  for (width /= 2; width > 0; width /= 2) {
    __syncthreads();
    if (lane < width && lane + width < lanes) combine(lane, lane + width);
  }
  __syncthreads();
}

// ---- forward ----

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

// ---- backward ----

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

/// Adds up the chunks, and writes dw and the lines [3][K][channels]. Grid: map. `lanes` chunks are
/// read side by side for each tile of channels.
template <class S>
__global__ void __launch_bounds__(kThreads)
    merge_sums(const __grid_constant__ MixtureArgs args, const Layout layout, int maps,
               int64_t chunks, const double* partials, const S* weights, const S* rstd,
               bool training, S* lines, S* grad_weights) {
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
      if (normalised) {
        const int64_t values = args.normalized * args.channels;
        const auto line =
            GradientLine<S>::of(static_cast<double>(weights[map]), scale, training ? g[me] : 0.0,
                                training ? gy[me] : 0.0, static_cast<double>(args.pixels));
        lines[i] = line.slope;
        lines[values + i] = line.tilt;
        lines[2 * values + i] = line.shift;
      }
    }
    __syncthreads();
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

// ---- launches ----

bool in_packs(const MixtureMap& map, int pack) {
  return reinterpret_cast<uintptr_t>(map.data) % 16 == 0 && map.stride % pack == 0;
}

/// f(T{}, std::integral_constant<int, V>{}): V elements are 16 bytes where every map allows that;
/// `others(V)` speaks for the maps that are not in `args`.
template <class T, class Others, class F>
const char* with_pack(const MixtureArgs& args, const Others& others, const F& f) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(T));
  bool whole = args.channels % kPack == 0 && others(kPack);
  for (int i = 0; i < args.normalized + args.plain; ++i) {
    whole = whole && in_packs(args.maps[i], kPack);
  }
  if (whole) return f(T{}, std::integral_constant<int, kPack>{});
  return f(T{}, std::integral_constant<int, 1>{});
}

template <class Others, class F>
const char* dispatch(const MixtureArgs& args, const Others& others, const F& f) {
  switch (args.dtype) {
    case DType::kFloat32:
      return with_pack<float>(args, others, f);
    case DType::kFloat64:
      return with_pack<double>(args, others, f);
    case DType::kBFloat16:
      return with_pack<__nv_bfloat16>(args, others, f);
    case DType::kFloat16:
      break;
  }
  return "the mixture takes float32, float64 and bfloat16 maps";
}

dim3 grid_of(int64_t x, int64_t y, int64_t z = 1) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

int64_t pixel_blocks(const MixtureArgs& args, const Layout& layout) {
  const int64_t pixels = int64_t{kPixels} * layout.lanes;
  return (args.pixels + pixels - 1) / pixels;
}

}  // namespace

size_t mixture_workspace_cuda(const MixtureArgs& args) {
  const int64_t maps = args.normalized + args.plain;
  const int64_t forward = 2 * args.normalized * kChunks;
  const int64_t backward = (1 + maps) * kChunks + 3 * args.normalized;
  return static_cast<size_t>(std::max(forward, backward) * args.channels) * sizeof(double);
}

const char* mixture_forward_cuda(const MixtureArgs& args, const void* weights,
                                 const MixtureRunning& running, bool training, double momentum,
                                 double eps, void* mean, void* rstd, MixtureMap out,
                                 MixtureMap rectified, void* workspace, void* stream) {
  const auto aligned = [&](int pack) { return in_packs(out, pack) && in_packs(rectified, pack); };
  return dispatch(args, aligned, [&](auto type, auto width) -> const char* {
    using T = decltype(type);
    using S = Opmath<T>;
    constexpr int V = decltype(width)::value;
    const Layout layout = layout_of(args, V);
    const Layout single = layout_of(args, 1);
    auto* const partials = static_cast<double*>(workspace);
    if (args.normalized > 0) {
      if (training) {
        if (const char* error =
                launch(statistics<T, V>, grid_of(layout.chunks, layout.tiles, args.normalized),
                       dim3(kThreads), 0, stream, args, layout, partials)) {
          return error;
        }
      }
      if (const char* error =
              launch(merge_statistics<S>, grid_of(1, single.tiles, args.normalized), dim3(kThreads),
                     0, stream, args, single, layout.chunks, partials, running, training, momentum,
                     eps, static_cast<S*>(mean), static_cast<S*>(rstd))) {
        return error;
      }
    }
    if (args.pixels == 0) return nullptr;
    return launch(combine<T, V>, grid_of(pixel_blocks(args, layout), layout.tiles), dim3(kThreads),
                  0, stream, args, layout, static_cast<const S*>(weights),
                  static_cast<const S*>(mean), static_cast<const S*>(rstd), out, rectified);
  });
}

const char* mixture_backward_cuda(const MixtureArgs& args, const void* weights, const void* mean,
                                  const void* rstd, MixtureMap grad,
                                  const MixtureGradients& gradients, void* grad_weights,
                                  bool training, void* workspace, void* stream) {
  bool any_normalized = false;
  bool any = false;
  for (int i = 0; i < args.normalized + args.plain; ++i) {
    any = any || gradients.maps[i].data != nullptr;
    any_normalized = any_normalized || (i < args.normalized && gradients.maps[i].data != nullptr);
  }
  const auto aligned = [&](int pack) {
    bool whole = in_packs(grad, pack);
    for (int i = 0; i < args.normalized + args.plain; ++i) {
      whole = whole && in_packs(gradients.maps[i], pack);
    }
    return whole;
  };
  return dispatch(args, aligned, [&](auto type, auto width) -> const char* {
    using T = decltype(type);
    using S = Opmath<T>;
    constexpr int V = decltype(width)::value;
    const Layout layout = layout_of(args, V);
    const Layout single = layout_of(args, 1);
    // The plain maps are read for the gradient of the weights alone.
    const int maps = args.normalized + (grad_weights != nullptr ? args.plain : 0);
    const bool summed = grad_weights != nullptr || (training && any_normalized);
    auto* const partials = static_cast<double*>(workspace);
    auto* const lines = reinterpret_cast<S*>(partials + kChunks * (1 + maps) * args.channels);
    if (summed) {
      if (const char* error =
              launch(sums<T, V>, grid_of(layout.chunks, layout.tiles, (maps + kMaps - 1) / kMaps),
                     dim3(kThreads), 0, stream, args, layout, maps, static_cast<const S*>(mean),
                     grad, partials)) {
        return error;
      }
    }
    if (summed || any_normalized) {
      if (const char* error =
              launch(merge_sums<S>, grid_of(maps, 1), dim3(kThreads), 0, stream, args, single, maps,
                     summed ? layout.chunks : 0, partials, static_cast<const S*>(weights),
                     static_cast<const S*>(rstd), training, lines, static_cast<S*>(grad_weights))) {
        return error;
      }
    }
    if (!any || args.pixels == 0) return nullptr;
    return launch(write<T, V>, grid_of(pixel_blocks(args, layout), layout.tiles), dim3(kThreads), 0,
                  stream, args, layout, static_cast<const S*>(weights), static_cast<const S*>(mean),
                  lines, grad, gradients);
  });
}

}  // namespace snsoftmax
