// A block takes up to kGroup packs of adjacent channels, whose taps it keeps in shared memory, and
// as many pixels as its threads then hold. A thread gathers one pack of one pixel, of the result or
// of the gradient of the map; its block's threads load the same pixels, most of them from L1. For
// the gradient of the weight a block takes one row of the kernel and one part of the pixels; the
// parts are added up in double by a second launch, in the same order every time.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "common/launch.h"
#include "common/pack_cuda.h"
#include "depthwise/depthwise.h"

namespace snsoftmax {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 16;       // packs
constexpr int kPixelsEach = 16;  // of a thread, for the gradient of the weight, before a new part
constexpr int64_t kMostParts = 64;

struct Size {
  int height, width;
};

/// What a launch works on. `from` is read through the window, a thread owns a pixel of `to`.
struct Layout {
  Size from, to;
  int images, channels;
  int stride, dilation, padding;
  int group;   // packs of a block
  int pixels;  // of a block, at once

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

__device__ __forceinline__ int64_t element(const Layout& layout, const Size& size, int image,
                                           int row, int column) {
  return ((static_cast<int64_t>(image) * size.height + row) * size.width + column) *
         layout.channels;
}

template <class T, int V, int K, bool Turned>
__global__ void __launch_bounds__(kThreads, 2)
    gather(const Layout layout, const T* from, const Opmath<T>* weight, T* to) {
  using S = Opmath<T>;
  __shared__ S taps[K * K][kGroup * V];
  const int first = static_cast<int>(blockIdx.y) * layout.group * V;
  const int left = layout.channels - first;
  const int held = left < layout.group * V ? left : layout.group * V;
  for (int i = static_cast<int>(threadIdx.x); i < held * K * K; i += kThreads) {
    taps[i % (K * K)][i / (K * K)] = weight[static_cast<int64_t>(first) * K * K + i];
  }
  __syncthreads();
  const Place place(layout, V);
  const int index = static_cast<int>(blockIdx.x) * layout.pixels + place.pixel;
  if (!place.there || index >= layout.count()) return;
  const Pixel pixel(layout, index);
  Pack<T, V> sum{};
#pragma unroll 1
  for (int i = 0; i < K; ++i) {
    const int row = source<Turned>(layout, pixel.row, i, layout.from.height);
    if (row < 0) continue;
    Pack<T, V> read[K] = {};
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int column = source<Turned>(layout, pixel.column, j, layout.from.width);
      if (column < 0) continue;
      read[j] = Pack<T, V>::load(from + element(layout, layout.from, pixel.image, row, column) +
                                 place.channel);
    }
#pragma unroll
    for (int j = 0; j < K; ++j) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum.lane[v] = add_tap(sum.lane[v], read[j].lane[v], taps[i * K + j][place.pack * V + v]);
      }
    }
  }
  sum.store(to + static_cast<int64_t>(index) * layout.channels + place.channel);
}

/// One part's sums for row blockIdx.z of the kernel: parts[part][channel][K][K].
template <class T, int V, int K>
__global__ void __launch_bounds__(kThreads, 2)
    correlate(const Layout layout, const T* grad, const T* x, double* parts) {
  using S = Opmath<T>;
  __shared__ S sums[kThreads][V];
  const Place place(layout, V);
  const int i = static_cast<int>(blockIdx.z);
  Pack<T, V> own[K] = {};
  const int step = static_cast<int>(gridDim.x) * layout.pixels;
  const int count = place.there ? layout.count() : 0;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * layout.pixels + place.pixel; at < count;
       at += step) {
    const Pixel pixel(layout, static_cast<int>(at));
    const int row = source<false>(layout, pixel.row, i, layout.from.height);
    if (row < 0) continue;
    const auto g = Pack<T, V>::load(grad + at * layout.channels + place.channel);
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int column = source<false>(layout, pixel.column, j, layout.from.width);
      if (column < 0) continue;
      const auto read = Pack<T, V>::load(
          x + element(layout, layout.from, pixel.image, row, column) + place.channel);
#pragma unroll
      for (int v = 0; v < V; ++v) own[j].lane[v] = add_tap(own[j].lane[v], g.lane[v], read.lane[v]);
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
      const int64_t to = static_cast<int64_t>(blockIdx.x) * layout.channels + channel;
      parts[(to * K + i) * K + j] = total;
    }
    __syncthreads();
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    merge(const double* parts, int count, int64_t size, S* grad_weight) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  double total = 0.0;
  for (int part = 0; part < count; ++part) total += parts[part * size + i];
  grad_weight[i] = static_cast<S>(total);
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
          kThreads / group};
}

/// f(T{}, integral constants of the pack and the kernel size, channel groups).
template <class F>
const char* dispatch(const DepthwiseArgs& args, int64_t images, bool whole, const F& f) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  // A block's first pixel may lie past the last one.
  if (images * args.height * args.width > kMost - kMostParts * kThreads ||
      args.channels > kMost / 32 || ceil_of(args.channels, kGroup) > 65535 ||
      2 * (args.height + args.width + args.dilation * args.kernel) > kMost) {
    return "the map has too many pixels or channels";
  }
  if (!depthwise_takes(args.kernel)) return "the kernel size is neither 3 nor 5";
  return with_type<__half, __nv_bfloat16>(args.dtype, [&](auto type) -> const char* {
    constexpr int kPack = 16 / static_cast<int>(sizeof(type));
    const auto with_kernel = [&](auto pack) -> const char* {
      const int64_t packs = args.channels / decltype(pack)::value;
      const auto groups = static_cast<unsigned>(ceil_of(packs, std::min<int64_t>(kGroup, packs)));
      if (args.kernel == 3) return f(type, pack, std::integral_constant<int, 3>{}, groups);
      return f(type, pack, std::integral_constant<int, 5>{}, groups);
    };
    if (whole && args.channels % kPack == 0) {
      return with_kernel(std::integral_constant<int, kPack>{});
    }
    return with_kernel(std::integral_constant<int, 1>{});
  });
}

template <bool Turned>
const char* gather_cuda(const DepthwiseArgs& args, int64_t images, const void* from,
                        const void* weight, void* to, void* stream) {
  if (images * args.height * args.width * args.channels == 0) return nullptr;
  return dispatch(
      args, images, aligned(from) && aligned(to),
      [&](auto type, auto pack, auto kernel, unsigned groups) -> const char* {
        using T = decltype(type);
        constexpr int V = decltype(pack)::value;
        const Layout layout = layout_of(args, images, Turned, V);
        const int64_t pixels = images * layout.to.height * layout.to.width;
        const dim3 grid(static_cast<unsigned>(ceil_of(pixels, layout.pixels)), groups, 1);
        return launch(gather<T, V, decltype(kernel)::value, Turned>, grid, dim3(kThreads, 1, 1), 0,
                      stream, layout, static_cast<const T*>(from),
                      static_cast<const Opmath<T>*>(weight), static_cast<T*>(to));
      });
}

}  // namespace

int64_t depthwise_parts_cuda(const DepthwiseArgs& args, int64_t images) {
  const int64_t pixels = images * args.out_height() * args.out_width();
  return std::clamp<int64_t>(ceil_of(pixels, kThreads / kGroup * kPixelsEach), 1, kMostParts);
}

const char* depthwise_forward_cuda(const DepthwiseArgs& args, int64_t images, const void* x,
                                   const void* weight, void* y, void* stream) {
  return gather_cuda<false>(args, images, x, weight, y, stream);
}

const char* depthwise_backward_map_cuda(const DepthwiseArgs& args, int64_t images, const void* grad,
                                        const void* weight, void* grad_map, void* stream) {
  return gather_cuda<true>(args, images, grad, weight, grad_map, stream);
}

const char* depthwise_backward_weight_cuda(const DepthwiseArgs& args, int64_t images,
                                           const void* grad, const void* x, double* parts,
                                           void* grad_weight, void* stream) {
  if (images * args.height * args.width * args.channels == 0) return nullptr;
  return dispatch(args, images, aligned(grad) && aligned(x),
                  [&](auto type, auto pack, auto kernel, unsigned groups) -> const char* {
                    using T = decltype(type);
                    constexpr int V = decltype(pack)::value;
                    constexpr int K = decltype(kernel)::value;
                    const int64_t count = depthwise_parts_cuda(args, images);
                    const char* const error =
                        launch(correlate<T, V, K>, dim3(static_cast<unsigned>(count), groups, K),
                               dim3(kThreads, 1, 1), 0, stream, layout_of(args, images, false, V),
                               static_cast<const T*>(grad), static_cast<const T*>(x), parts);
                    if (error != nullptr) return error;
                    const int64_t size = args.channels * K * K;
                    return launch(merge<Opmath<T>>,
                                  dim3(static_cast<unsigned>(ceil_of(size, kThreads)), 1, 1),
                                  dim3(kThreads, 1, 1), 0, stream, parts, static_cast<int>(count),
                                  size, static_cast<Opmath<T>*>(grad_weight));
                  });
}

}  // namespace snsoftmax
