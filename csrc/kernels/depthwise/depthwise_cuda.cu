// Depthwise convolutions: a thread gathers one pack of one pixel, of the results of up to kEdges
// edges that have the same window, from one read of the map, or of the gradient of the map, from
// the gradients of all edges that read it. Its block's threads load the same pixels, most of them
// from L1. For the gradients of the weights a block takes one row of one edge's kernel and one part
// of the pixels; the parts are added up in double by a second launch, in the same order every time.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "common/launch.h"
#include "depthwise/depthwise_layout_cuda.h"

namespace snsoftmax {
namespace {

constexpr int kPixelsEach = 16;  // of a thread, for the gradients of the weights, before a new part
constexpr int64_t kMostParts = 64;
constexpr int kMostRows = 5;  // of a kernel

/// Edges of one window that read the same channels, one after the other.
struct Bundle {
  unsigned char first, count;
};

struct Bundles {
  Bundle of[kDepthwiseEdges];
};

template <class T, int V, int K, int E>
__device__ __forceinline__ void gather_result(const Layout& layout, const T* x,
                                              const DepthwiseEdges& edges, const Bundle& bundle,
                                              const Taps<T, V, E>& taps) {
  const DepthwiseEdge& window = edges.edge[bundle.first];
  const Place place(layout, window, V);
  const int index = static_cast<int>(blockIdx.x) * layout.pixels + place.pixel;
  if (!place.there || index >= layout.count()) return;
  const Pixel pixel(layout, index);
  const int channel = window.begin + place.channel;
  const Reader<T, V> reader(layout, channel, true);
  Pack<T, V> sum[E] = {};
#pragma unroll 1
  for (int i = 0; i < K; ++i) {
    const int row = source<false>(layout, window, pixel.row, i, layout.from.height);
    if (row < 0) continue;
    typename Pack<T, V>::Memory memory[K] = {};
    bool inside[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int column = source<false>(layout, window, pixel.column, j, layout.from.width);
      inside[j] = column >= 0;
      if (!inside[j]) continue;
      memory[j] = Pack<T, V>::read(
          x + place_of(layout, pixel.image, row, column) * layout.channels + channel);
    }
#pragma unroll
    for (int j = 0; j < K; ++j) {
      if (!inside[j]) continue;  // zeros, also where x is rectified
      const Pack<T, V> read = reader.of(memory[j]);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        if (e >= bundle.count) break;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum[e].lane[v] =
              add_tap(sum[e].lane[v], read.lane[v], taps.tap[e][i * K + j][place.pack * V + v]);
        }
      }
    }
  }
#pragma unroll
  for (int e = 0; e < E; ++e) {
    if (e >= bundle.count) break;
    const DepthwiseEdge& edge = edges.edge[bundle.first + e];
    const int64_t at = static_cast<int64_t>(index) * edge.pitch + place.channel;
    sum[e].store(static_cast<T*>(edge.map) + at);
  }
}

/// Grid: pixels of the results, groups of channels, bundles of up to E edges.
template <class T, int V, int E>
__global__ void __launch_bounds__(kThreads, 2)
    gather_results(const __grid_constant__ Layout layout, const T* x,
                   const __grid_constant__ DepthwiseEdges edges,
                   const __grid_constant__ Bundles bundles) {
  __shared__ Taps<T, V, E> taps;
  const Bundle bundle = bundles.of[blockIdx.z];
  taps.load(layout, edges, bundle.first, bundle.count);
  __syncthreads();
  if (edges.edge[bundle.first].kernel == 3) {
    gather_result<T, V, 3>(layout, x, edges, bundle, taps);
  } else {
    gather_result<T, V, 5>(layout, x, edges, bundle, taps);
  }
}

/// What an edge's results that have read the pixel give to its gradient.
template <int K, class T, int V, class S>
__device__ __forceinline__ void add_gradients(const Layout& layout, const DepthwiseEdge& edge,
                                              const Pixel& pixel, const Place& place,
                                              const S (&taps)[kMostTaps][kGroup * V],
                                              Pack<T, V>& sum) {
  const T* const grad = static_cast<const T*>(edge.map) + place.channel;
#pragma unroll 1
  for (int i = 0; i < K; ++i) {
    const int row = source<true>(layout, edge, pixel.row, i, layout.from.height);
    if (row < 0) continue;
    Pack<T, V> read[K] = {};
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int column = source<true>(layout, edge, pixel.column, j, layout.from.width);
      if (column < 0) continue;
      read[j] = Pack<T, V>::load(grad + place_of(layout, pixel.image, row, column) * edge.pitch);
    }
#pragma unroll
    for (int j = 0; j < K; ++j) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum.lane[v] = add_tap(sum.lane[v], read[j].lane[v], taps[i * K + j][place.pack * V + v]);
      }
    }
  }
}

/// Grid: pixels of the map, groups of channels, and the edges that are apart.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    gather_gradients(const __grid_constant__ Layout layout, const T* x,
                     const __grid_constant__ DepthwiseEdges edges, T* grad_map) {
  __shared__ Taps<T, V, kEdges> taps;
  const int begin = static_cast<int>(blockIdx.z);
  const int end = edges.apart ? begin + 1 : edges.count;
  const DepthwiseEdge& any = edges.edge[begin];
  const Place place(layout, any, V);
  const int index = static_cast<int>(blockIdx.x) * layout.pixels + place.pixel;
  const bool active = place.there && index < layout.count();
  const Pixel pixel(layout, active ? index : 0);
  Pack<T, V> sum{};
  for (int first = begin; first < end; first += kEdges) {
    const int count = end - first < kEdges ? end - first : kEdges;
    if (first > begin) __syncthreads();  // all have read the taps before
    taps.load(layout, edges, first, count);
    __syncthreads();
    if (!active) continue;
#pragma unroll 1
    for (int e = 0; e < count; ++e) {
      const DepthwiseEdge& edge = edges.edge[first + e];
      if (edge.kernel == 3) {
        add_gradients<3>(layout, edge, pixel, place, taps.tap[e], sum);
      } else {
        add_gradients<5>(layout, edge, pixel, place, taps.tap[e], sum);
      }
    }
  }
  if (!active) return;
  const int channel = any.begin + place.channel;
  const int64_t at = static_cast<int64_t>(index) * layout.channels + channel;
  const Reader<T, V> reader(layout, channel, true);
  if (reader.rectifies) {
    const Pack<T, V> u = reader.load(x + at);
#pragma unroll
    for (int v = 0; v < V; ++v) sum.lane[v] = gated(sum.lane[v], u.lane[v]);
  }
  sum.store(grad_map + at);
}

/// A thread's sums for row `i` of an edge's kernel.
template <class T, int V, int K>
__device__ __forceinline__ void correlate_row(const Layout& layout, const T* x,
                                              const DepthwiseEdge& edge, const Place& place, int i,
                                              Pack<T, V> (&own)[kMostRows]) {
  const int channel = edge.begin + place.channel;
  const Reader<T, V> reader(layout, channel, place.there);
  const T* const grad = static_cast<const T*>(edge.map) + place.channel;
  const int step = static_cast<int>(gridDim.x) * layout.pixels;
  const int count = place.there ? layout.count() : 0;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * layout.pixels + place.pixel; at < count;
       at += step) {
    const Pixel pixel(layout, static_cast<int>(at));
    const int row = source<false>(layout, edge, pixel.row, i, layout.from.height);
    if (row < 0) continue;
    const auto g = Pack<T, V>::load(grad + at * edge.pitch);
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int column = source<false>(layout, edge, pixel.column, j, layout.from.width);
      if (column < 0) continue;
      const auto read =
          reader.load(x + place_of(layout, pixel.image, row, column) * layout.channels + channel);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        own[j].lane[v] = add_tap(own[j].lane[v], g.lane[v], read.lane[v]);
      }
    }
  }
}

/// One part's sums for one row of an edge's kernel: parts[part], the edges one after the other as
/// [channel][kernel][kernel]. Grid: parts, groups of channels, kMostRows rows of each edge's
/// kernel.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    correlate(const __grid_constant__ Layout layout, const T* x,
              const __grid_constant__ DepthwiseEdges edges, double* parts) {
  using S = Opmath<T>;
  __shared__ S sums[kThreads][V];
  const int number = static_cast<int>(blockIdx.z) / kMostRows;
  const int i = static_cast<int>(blockIdx.z) % kMostRows;
  const DepthwiseEdge& edge = edges.edge[number];
  if (i >= edge.kernel) return;
  const Place place(layout, edge, V);
  Pack<T, V> own[kMostRows] = {};
  if (edge.kernel == 3) {
    correlate_row<T, V, 3>(layout, x, edge, place, i, own);
  } else {
    correlate_row<T, V, 5>(layout, x, edge, place, i, own);
  }
  const int me = static_cast<int>(threadIdx.x);
  const int channel = static_cast<int>(blockIdx.y) * layout.group * V + me;
  double* const to = parts + blockIdx.x * edges.taps_before(edges.count) +
                     edges.taps_before(number) +
                     (static_cast<int64_t>(channel) * edge.kernel + i) * edge.kernel;
#pragma unroll
  for (int j = 0; j < kMostRows; ++j) {
    if (j >= edge.kernel) break;
#pragma unroll
    for (int v = 0; v < V; ++v) sums[me][v] = own[j].lane[v];
    __syncthreads();
    if (me < layout.group * V && channel < edge.channels) {
      double total = 0.0;
      for (int p = 0; p < layout.pixels; ++p) {
        total += static_cast<double>(sums[p * layout.group + me / V][me % V]);
      }
      to[j] = total;
    }
    __syncthreads();
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    merge(const double* parts, int count, int64_t size, S* grad_weights) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  double total = 0.0;
  for (int part = 0; part < count; ++part) total += parts[part * size + i];
  grad_weights[i] = static_cast<S>(total);
}

// ---- host ----

bool aligned(const void* map) { return reinterpret_cast<uintptr_t>(map) % 16 == 0; }

int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The most channels of an edge.
int widest(const DepthwiseEdges& edges) {
  int channels = 0;
  for (int e = 0; e < edges.count; ++e) channels = std::max(channels, edges.edge[e].channels);
  return channels;
}

/// Can packs of `pack` elements be loaded and stored? The edges read all channels of x.
bool in_packs(const void* map, const DepthwiseEdges& edges, int pack) {
  if (!aligned(map)) return false;
  for (int e = 0; e < edges.count; ++e) {
    const DepthwiseEdge& edge = edges.edge[e];
    if (!aligned(edge.map)) return false;
    if (edge.pitch % pack != 0 || edge.channels % pack != 0) return false;
  }
  return true;
}

Layout layout_of(const DepthwiseArgs& args, int64_t images, const DepthwiseEdges& edges,
                 bool turned, int pack) {
  const Size map{static_cast<int>(args.height), static_cast<int>(args.width)};
  const Size result{static_cast<int>(args.out_height()), static_cast<int>(args.out_width())};
  const int group = std::min(kGroup, widest(edges) / pack);
  return {turned ? result : map,
          turned ? map : result,
          static_cast<int>(images),
          static_cast<int>(args.channels),
          static_cast<int>(args.stride),
          group,
          kThreads / group,
          args.mean,
          args.rstd};
}

/// Edges that a block of gather_results can take: up to `most` neighbours alike but for their
/// taps. Writes as many bundles as it returns.
int bundle(const DepthwiseEdges& edges, int most, Bundles& bundles) {
  int count = 0;
  for (int e = 0; e < edges.count; ++e) {
    const DepthwiseEdge& edge = edges.edge[e];
    if (count > 0 && !edges.apart && bundles.of[count - 1].count < most) {
      const DepthwiseEdge& before = edges.edge[e - 1];
      if (before.kernel == edge.kernel && before.dilation == edge.dilation) {
        ++bundles.of[count - 1].count;
        continue;
      }
    }
    bundles.of[count++] = {static_cast<unsigned char>(e), 1};
  }
  return count;
}

const char* refusal(const DepthwiseArgs& args, int64_t images, const DepthwiseEdges& edges) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  if (edges.count > kDepthwiseEdges) return "there are too many edges";
  int64_t reach = 0;
  for (int e = 0; e < edges.count; ++e) {
    const DepthwiseEdge& edge = edges.edge[e];
    if (!depthwise_takes(edge.kernel)) return "the kernel size is neither 3 nor 5";
    reach = std::max(reach, static_cast<int64_t>(edge.dilation) * edge.kernel);
  }
  // A block's first pixel may lie past the last one.
  if (images * args.height * args.width > kMost - kMostParts * kThreads ||
      args.channels > kMost / 32 || ceil_of(args.channels, kGroup) > 65535 ||
      2 * (args.height + args.width + reach) > kMost) {
    return "the map has too many pixels or channels";
  }
  return nullptr;
}

/// f(T{}, an integral constant of the pack, channel groups). `map` is x or its gradient.
template <class F>
const char* dispatch(const DepthwiseArgs& args, int64_t images, const void* map,
                     const DepthwiseEdges& edges, const F& f) {
  if (images * args.height * args.width * args.channels == 0 || edges.count == 0) return nullptr;
  if (const char* const refused = refusal(args, images, edges)) return refused;
  return with_type<__half, __nv_bfloat16>(args.dtype, [&](auto type) -> const char* {
    constexpr int kPack = 16 / static_cast<int>(sizeof(type));
    const auto with_pack = [&](auto pack) -> const char* {
      const int64_t packs = widest(edges) / decltype(pack)::value;
      return f(type, pack, static_cast<unsigned>(ceil_of(packs, std::min<int64_t>(kGroup, packs))));
    };
    if (in_packs(map, edges, kPack)) return with_pack(std::integral_constant<int, kPack>{});
    return with_pack(std::integral_constant<int, 1>{});
  });
}

}  // namespace

int64_t depthwise_parts_cuda(const DepthwiseArgs& args, int64_t images) {
  const int64_t pixels = images * args.out_height() * args.out_width();
  return std::clamp<int64_t>(ceil_of(pixels, kThreads / kGroup * kPixelsEach), 1, kMostParts);
}

const char* depthwise_forward_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                   const DepthwiseEdges& edges, void* stream) {
  return dispatch(args, images, x, edges, [&](auto type, auto pack, unsigned groups) {
    using T = decltype(type);
    constexpr int V = decltype(pack)::value;
    const Layout layout = layout_of(args, images, edges, false, V);
    const int64_t pixels = images * layout.to.height * layout.to.width;
    const auto start = [&](auto held) -> const char* {
      constexpr int E = decltype(held)::value;
      Bundles bundles{};
      const int count = bundle(edges, E, bundles);
      const dim3 grid(static_cast<unsigned>(ceil_of(pixels, layout.pixels)), groups,
                      static_cast<unsigned>(count));
      return launch(gather_results<T, V, E>, grid, dim3(kThreads, 1, 1), 0, stream, layout,
                    static_cast<const T*>(x), edges, bundles);
    };
    if (edges.count == 1 || edges.apart) return start(std::integral_constant<int, 1>{});
    return start(std::integral_constant<int, kEdges>{});
  });
}

const char* depthwise_backward_map_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                        const DepthwiseEdges& edges, void* grad_map, void* stream) {
  // x, read where it is rectified, must be as well aligned.
  const void* const map = aligned(x) ? grad_map : x;
  return dispatch(
      args, images, map, edges, [&](auto type, auto pack, unsigned groups) -> const char* {
        using T = decltype(type);
        constexpr int V = decltype(pack)::value;
        const Layout layout = layout_of(args, images, edges, true, V);
        const int64_t pixels = images * layout.to.height * layout.to.width;
        const dim3 grid(static_cast<unsigned>(ceil_of(pixels, layout.pixels)), groups,
                        edges.apart ? static_cast<unsigned>(edges.count) : 1);
        return launch(gather_gradients<T, V>, grid, dim3(kThreads, 1, 1), 0, stream, layout,
                      static_cast<const T*>(x), edges, static_cast<T*>(grad_map));
      });
}

const char* depthwise_backward_weight_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                           const DepthwiseEdges& edges, double* parts,
                                           void* grad_weights, void* stream) {
  return dispatch(
      args, images, x, edges, [&](auto type, auto pack, unsigned groups) -> const char* {
        using T = decltype(type);
        constexpr int V = decltype(pack)::value;
        const int64_t count = depthwise_parts_cuda(args, images);
        const auto rows = static_cast<unsigned>(edges.count * kMostRows);
        const char* const error =
            launch(correlate<T, V>, dim3(static_cast<unsigned>(count), groups, rows),
                   dim3(kThreads, 1, 1), 0, stream, layout_of(args, images, edges, false, V),
                   static_cast<const T*>(x), edges, parts);
        if (error != nullptr) return error;
        const int64_t size = edges.taps_before(edges.count);
        return launch(merge<Opmath<T>>, dim3(static_cast<unsigned>(ceil_of(size, kThreads)), 1, 1),
                      dim3(kThreads, 1, 1), 0, stream, parts, static_cast<int>(count), size,
                      static_cast<Opmath<T>*>(grad_weights));
      });
}

}  // namespace snsoftmax
