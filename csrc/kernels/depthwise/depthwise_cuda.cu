// A block takes up to kGroup packs of adjacent channels, whose taps it keeps in shared memory, and
// as many pixels as its threads then hold. A thread gathers one pack of one pixel: of the results
// of up to kEdges edges, from one read of the map, or of the gradient of the map, from the
// gradients of all edges. Its block's threads load the same pixels, most of them from L1. For the
// gradients of the weights a block takes one row of one edge's kernel and one part of the pixels;
// the parts are added up in double by a second launch, in the same order every time.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "common/launch.h"
#include "common/pack_cuda.h"
#include "depthwise/depthwise.h"

namespace snsoftmax {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 8;        // packs: 128 bytes, a line of the cache
constexpr int kEdges = 4;        // whose taps a block holds, and whose results a thread
constexpr int kPixelsEach = 16;  // of a thread, for the gradients of the weights, before a new part
constexpr int64_t kMostParts = 64;

struct Size {
  int height, width;
};

/// What a launch works on. `from` is read through the window, a thread owns a pixel of `to`.
struct Layout {
  Size from, to;
  int images, channels;
  int stride, dilation, padding;
  int group;         // packs of a block
  int pixels;        // of a block, at once
  const void* mean;  // of x, or null
  const void* rstd;

  __device__ __forceinline__ int count() const { return images * to.height * to.width; }
};

/// Where a thread is within its block's packs and pixels.
struct Place {
  int pack, pixel, channel;
  bool there;  // has a pixel of the block and channels

  __device__ __forceinline__ Place(const Layout& layout, int width) {
    const int me = static_cast<int>(threadIdx.x);
    pack = me % layout.group;
    pixel = me / layout.group;
    channel = (static_cast<int>(blockIdx.y) * layout.group + pack) * width;
    there = pixel < layout.pixels && channel < layout.channels;
  }
};

/// A pixel of `to`.
struct Pixel {
  int image, row, column;

  __device__ __forceinline__ Pixel(const Layout& layout, int index)
      : image(index / layout.to.width / layout.to.height),
        row(index / layout.to.width % layout.to.height),
        column(index % layout.to.width) {}
};

/// The row or column that tap `tap` of `at` reads, or -1. `Turned`: of the gradient of the map,
/// which reads the results that have read it.
template <bool Turned>
__device__ __forceinline__ int source(const Layout& layout, int at, int tap, int size) {
  const int found = Turned
                        ? depthwise_reader(at, tap, layout.stride, layout.dilation, layout.padding)
                        : depthwise_source(at, tap, layout.stride, layout.dilation, layout.padding);
  return found >= 0 && found < size ? found : -1;
}

/// Where a pixel of `from` begins, in pixels.
__device__ __forceinline__ int64_t place_of(const Layout& layout, int image, int row, int column) {
  return (static_cast<int64_t>(image) * layout.from.height + row) * layout.from.width + column;
}

/// Packs of x as the convolutions read them: rectified, or as they are.
template <class T, int V>
struct Reader {
  using S = Opmath<T>;
  S mean[V];
  S rstd[V];
  bool rectifies;

  __device__ __forceinline__ Reader(const Layout& layout, const Place& place)
      : rectifies(layout.mean != nullptr) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const bool given = rectifies && place.there;
      mean[v] = given ? static_cast<const S*>(layout.mean)[place.channel + v] : S(0);
      rstd[v] = given ? static_cast<const S*>(layout.rstd)[place.channel + v] : S(1);
    }
  }

  __device__ __forceinline__ Pack<T, V> load(const T* from) const {
    Pack<T, V> pack = Pack<T, V>::load(from);
    if (rectifies) {
#pragma unroll
      for (int v = 0; v < V; ++v) pack.lane[v] = rectified(pack.lane[v], mean[v], rstd[v]);
    }
    return pack;
  }
};

/// The taps of a block's channels of edges [first, first + E), for the threads to read after a
/// barrier.
template <class T, int V, int K, int E>
struct Taps {
  using S = Opmath<T>;
  S tap[E][K * K][kGroup * V];

  __device__ __forceinline__ void load(const Layout& layout, const DepthwiseEdges& edges,
                                       int first) {
    const int channel = static_cast<int>(blockIdx.y) * layout.group * V;
    const int left = layout.channels - channel;
    const int held = left < layout.group * V ? left : layout.group * V;
#pragma unroll
    for (int e = 0; e < E; ++e) {
      if (first + e >= edges.count) break;
      const S* const weight =
          static_cast<const S*>(edges.weights[first + e]) + static_cast<int64_t>(channel) * K * K;
      for (int i = static_cast<int>(threadIdx.x); i < held * K * K; i += kThreads) {
        tap[e][i % (K * K)][i / (K * K)] = weight[i];
      }
    }
  }
};

/// Grid: pixels of the results, groups of channels, E edges.
template <class T, int V, int K, int E>
__global__ void __launch_bounds__(kThreads, 2)
    gather_results(const __grid_constant__ Layout layout, const T* x,
                   const __grid_constant__ DepthwiseEdges edges) {
  __shared__ Taps<T, V, K, E> taps;
  const int first = static_cast<int>(blockIdx.z) * E;
  taps.load(layout, edges, first);
  __syncthreads();
  const Place place(layout, V);
  const int index = static_cast<int>(blockIdx.x) * layout.pixels + place.pixel;
  if (!place.there || index >= layout.count()) return;
  const Pixel pixel(layout, index);
  const Reader<T, V> reader(layout, place);
  Pack<T, V> sum[E] = {};
#pragma unroll 1
  for (int i = 0; i < K; ++i) {
    const int row = source<false>(layout, pixel.row, i, layout.from.height);
    if (row < 0) continue;
    Pack<T, V> read[K] = {};
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int column = source<false>(layout, pixel.column, j, layout.from.width);
      if (column < 0) continue;
      read[j] = reader.load(x + place_of(layout, pixel.image, row, column) * layout.channels +
                            place.channel);
    }
#pragma unroll
    for (int e = 0; e < E; ++e) {
      if (first + e >= edges.count) break;
#pragma unroll
      for (int j = 0; j < K; ++j) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum[e].lane[v] =
              add_tap(sum[e].lane[v], read[j].lane[v], taps.tap[e][i * K + j][place.pack * V + v]);
        }
      }
    }
  }
#pragma unroll
  for (int e = 0; e < E; ++e) {
    if (first + e >= edges.count) break;
    sum[e].store(static_cast<T*>(edges.maps[first + e]) + index * edges.pitch + place.channel);
  }
}

/// Grid: pixels of the map, groups of channels.
template <class T, int V, int K>
__global__ void __launch_bounds__(kThreads, 2)
    gather_gradients(const __grid_constant__ Layout layout, const T* x,
                     const __grid_constant__ DepthwiseEdges edges, T* grad_map) {
  __shared__ Taps<T, V, K, kEdges> taps;
  const Place place(layout, V);
  const int index = static_cast<int>(blockIdx.x) * layout.pixels + place.pixel;
  const bool active = place.there && index < layout.count();
  const Pixel pixel(layout, active ? index : 0);
  Pack<T, V> sum{};
  for (int first = 0; first < edges.count; first += kEdges) {
    if (first > 0) __syncthreads();  // all have read the taps before
    taps.load(layout, edges, first);
    __syncthreads();
    const int last = active ? (edges.count - first < kEdges ? edges.count - first : kEdges) : 0;
#pragma unroll 1
    for (int e = 0; e < last; ++e) {
      const T* const grad = static_cast<const T*>(edges.maps[first + e]) + place.channel;
#pragma unroll 1
      for (int i = 0; i < K; ++i) {
        const int row = source<true>(layout, pixel.row, i, layout.from.height);
        if (row < 0) continue;
        Pack<T, V> read[K] = {};
#pragma unroll
        for (int j = 0; j < K; ++j) {
          const int column = source<true>(layout, pixel.column, j, layout.from.width);
          if (column < 0) continue;
          read[j] =
              Pack<T, V>::load(grad + place_of(layout, pixel.image, row, column) * edges.pitch);
        }
#pragma unroll
        for (int j = 0; j < K; ++j) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            sum.lane[v] =
                add_tap(sum.lane[v], read[j].lane[v], taps.tap[e][i * K + j][place.pack * V + v]);
          }
        }
      }
    }
  }
  if (!active) return;
  const int64_t at = static_cast<int64_t>(index) * layout.channels + place.channel;
  const Reader<T, V> reader(layout, place);
  if (reader.rectifies) {
    const Pack<T, V> u = reader.load(x + at);
#pragma unroll
    for (int v = 0; v < V; ++v) sum.lane[v] = gated(sum.lane[v], u.lane[v]);
  }
  sum.store(grad_map + at);
}

/// One part's sums for one row of an edge's kernel: parts[part][edge][channel][K][K]. Grid: parts,
/// groups of channels, rows of the edges' kernels.
template <class T, int V, int K>
__global__ void __launch_bounds__(kThreads, 2)
    correlate(const __grid_constant__ Layout layout, const T* x,
              const __grid_constant__ DepthwiseEdges edges, double* parts) {
  using S = Opmath<T>;
  __shared__ S sums[kThreads][V];
  const Place place(layout, V);
  const Reader<T, V> reader(layout, place);
  const int edge = static_cast<int>(blockIdx.z) / K;
  const int i = static_cast<int>(blockIdx.z) % K;
  const T* const grad = static_cast<const T*>(edges.maps[edge]) + place.channel;
  Pack<T, V> own[K] = {};
  const int step = static_cast<int>(gridDim.x) * layout.pixels;
  const int count = place.there ? layout.count() : 0;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * layout.pixels + place.pixel; at < count;
       at += step) {
    const Pixel pixel(layout, static_cast<int>(at));
    const int row = source<false>(layout, pixel.row, i, layout.from.height);
    if (row < 0) continue;
    const auto g = Pack<T, V>::load(grad + at * edges.pitch);
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int column = source<false>(layout, pixel.column, j, layout.from.width);
      if (column < 0) continue;
      const auto read = reader.load(
          x + place_of(layout, pixel.image, row, column) * layout.channels + place.channel);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        own[j].lane[v] = add_tap(own[j].lane[v], g.lane[v], read.lane[v]);
      }
    }
  }
  const int me = static_cast<int>(threadIdx.x);
  const int channel = static_cast<int>(blockIdx.y) * layout.group * V + me;
#pragma unroll
  for (int j = 0; j < K; ++j) {
#pragma unroll
    for (int v = 0; v < V; ++v) sums[me][v] = own[j].lane[v];
    __syncthreads();
    if (me < layout.group * V && channel < layout.channels) {
      double total = 0.0;
      for (int p = 0; p < layout.pixels; ++p) {
        total += static_cast<double>(sums[p * layout.group + me / V][me % V]);
      }
      const int64_t row = static_cast<int64_t>(blockIdx.x) * edges.count + edge;
      parts[((row * layout.channels + channel) * K + i) * K + j] = total;
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

Layout layout_of(const DepthwiseArgs& args, int64_t images, bool turned, int pack) {
  const Size map{static_cast<int>(args.height), static_cast<int>(args.width)};
  const Size result{static_cast<int>(args.out_height()), static_cast<int>(args.out_width())};
  const int group = static_cast<int>(std::min<int64_t>(kGroup, args.channels / pack));
  return {turned ? result : map,
          turned ? map : result,
          static_cast<int>(images),
          static_cast<int>(args.channels),
          static_cast<int>(args.stride),
          static_cast<int>(args.dilation),
          static_cast<int>(args.padding()),
          group,
          kThreads / group,
          args.mean,
          args.rstd};
}

/// f(T{}, integral constants of the pack and the kernel size, channel groups). `map` is x or its
/// gradient.
template <class F>
const char* dispatch(const DepthwiseArgs& args, int64_t images, const void* map,
                     const DepthwiseEdges& edges, const F& f) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  if (images * args.height * args.width * args.channels == 0 || edges.count == 0) return nullptr;
  // A block's first pixel may lie past the last one.
  if (images * args.height * args.width > kMost - kMostParts * kThreads ||
      args.channels > kMost / 32 || ceil_of(args.channels, kGroup) > 65535 ||
      2 * (args.height + args.width + args.dilation * args.kernel) > kMost) {
    return "the map has too many pixels or channels";
  }
  if (!depthwise_takes(args.kernel)) return "the kernel size is neither 3 nor 5";
  if (edges.count > kDepthwiseEdges) return "there are too many edges";
  return with_type<__half, __nv_bfloat16>(args.dtype, [&](auto type) -> const char* {
    constexpr int kPack = 16 / static_cast<int>(sizeof(type));
    const auto with_kernel = [&](auto pack) -> const char* {
      const int64_t packs = args.channels / decltype(pack)::value;
      const auto groups = static_cast<unsigned>(ceil_of(packs, std::min<int64_t>(kGroup, packs)));
      if (args.kernel == 3) return f(type, pack, std::integral_constant<int, 3>{}, groups);
      return f(type, pack, std::integral_constant<int, 5>{}, groups);
    };
    if (aligned(map) && std::all_of(edges.maps, edges.maps + edges.count, aligned) &&
        args.channels % kPack == 0 && edges.pitch % kPack == 0) {
      return with_kernel(std::integral_constant<int, kPack>{});
    }
    return with_kernel(std::integral_constant<int, 1>{});
  });
}

}  // namespace

int64_t depthwise_parts_cuda(const DepthwiseArgs& args, int64_t images) {
  const int64_t pixels = images * args.out_height() * args.out_width();
  return std::clamp<int64_t>(ceil_of(pixels, kThreads / kGroup * kPixelsEach), 1, kMostParts);
}

const char* depthwise_forward_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                   const DepthwiseEdges& edges, void* stream) {
  return dispatch(args, images, x, edges, [&](auto type, auto pack, auto kernel, unsigned groups) {
    using T = decltype(type);
    constexpr int V = decltype(pack)::value;
    const Layout layout = layout_of(args, images, false, V);
    const int64_t pixels = images * layout.to.height * layout.to.width;
    const auto start = [&](auto held) -> const char* {
      constexpr int E = decltype(held)::value;
      const dim3 grid(static_cast<unsigned>(ceil_of(pixels, layout.pixels)), groups,
                      static_cast<unsigned>(ceil_of(edges.count, E)));
      return launch(gather_results<T, V, decltype(kernel)::value, E>, grid, dim3(kThreads, 1, 1), 0,
                    stream, layout, static_cast<const T*>(x), edges);
    };
    if (edges.count == 1) return start(std::integral_constant<int, 1>{});
    return start(std::integral_constant<int, kEdges>{});
  });
}

const char* depthwise_backward_map_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                        const DepthwiseEdges& edges, void* grad_map, void* stream) {
  // x, read where it is rectified, must be as well aligned.
  const void* const map = aligned(x) ? grad_map : x;
  return dispatch(args, images, map, edges,
                  [&](auto type, auto pack, auto kernel, unsigned groups) -> const char* {
                    using T = decltype(type);
                    constexpr int V = decltype(pack)::value;
                    const Layout layout = layout_of(args, images, true, V);
                    const int64_t pixels = images * layout.to.height * layout.to.width;
                    const dim3 grid(static_cast<unsigned>(ceil_of(pixels, layout.pixels)), groups,
                                    1);
                    return launch(gather_gradients<T, V, decltype(kernel)::value>, grid,
                                  dim3(kThreads, 1, 1), 0, stream, layout, static_cast<const T*>(x),
                                  edges, static_cast<T*>(grad_map));
                  });
}

const char* depthwise_backward_weight_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                           const DepthwiseEdges& edges, double* parts,
                                           void* grad_weights, void* stream) {
  return dispatch(args, images, x, edges,
                  [&](auto type, auto pack, auto kernel, unsigned groups) -> const char* {
                    using T = decltype(type);
                    constexpr int V = decltype(pack)::value;
                    constexpr int K = decltype(kernel)::value;
                    const int64_t count = depthwise_parts_cuda(args, images);
                    const auto rows = static_cast<unsigned>(edges.count * K);
                    const char* const error =
                        launch(correlate<T, V, K>, dim3(static_cast<unsigned>(count), groups, rows),
                               dim3(kThreads, 1, 1), 0, stream, layout_of(args, images, false, V),
                               static_cast<const T*>(x), edges, parts);
                    if (error != nullptr) return error;
                    const int64_t size = edges.count * args.channels * K * K;
                    return launch(merge<Opmath<T>>,
                                  dim3(static_cast<unsigned>(ceil_of(size, kThreads)), 1, 1),
                                  dim3(kThreads, 1, 1), 0, stream, parts, static_cast<int>(count),
                                  size, static_cast<Opmath<T>*>(grad_weights));
                  });
}

}  // namespace snsoftmax
