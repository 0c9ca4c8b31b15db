// What leaves a node, on CUDA. A thread holds a pack of channels of kRows pixels one below the
// other (16 bytes where every map allows that); threads side by side read what lies side by side,
// and a neighbour is a row or a pixel further on. A row's horizontal sum serves the rows above and
// below, so a thread makes 3 (kRows + 2) loads for kRows averages, most of them from L1: its
// block's threads load the same packs.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "common/launch.h"
#include "common/pack_cuda.h"
#include "rectify_average/rectify_average.h"

namespace snsoftmax {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 2;

/// Within an image everything fits an int, which saves the kernels registers.
struct Layout {
  int height;
  int line;         // elements of a row
  int pixel;        // elements
  unsigned packs;   // of a row
  unsigned blocks;  // of an image
};

/// The first of this thread's pixels.
struct Place {
  int row;          // within the image
  int at;           // within the row
  int64_t element;  // within the map

  __device__ __forceinline__ Place(const Layout& layout, int pack) {
    const unsigned i = blockIdx.x % layout.blocks * kThreads + threadIdx.x;
    row = static_cast<int>(i / layout.packs) * kRows;
    at = static_cast<int>(i % layout.packs) * pack;
    const int64_t image = blockIdx.x / layout.blocks;
    element = image * layout.height * layout.line + row * layout.line + at;
  }
};

/// Which neighbours a pixel has, and over how many of them an average is taken.
struct Window {
  bool left, right;
  int columns;

  __device__ __forceinline__ Window(const Layout& layout, int at)
      : left(at >= layout.pixel),
        right(at + layout.pixel < layout.line),
        columns(1 + left + right) {}
};

__device__ __forceinline__ bool inside(const Layout& layout, int row) {
  return row >= 0 && row < layout.height;
}
/// Rows that a window around a row covers.
__device__ __forceinline__ int covered(const Layout& layout, int row) {
  return 1 + (row > 0) + (row + 1 < layout.height);
}

/// 1 / count of 1 to 3 pixels, without a division.
template <class S>
__device__ __forceinline__ S share_of(int count) {
  return count == 3 ? S(1) / S(3) : count == 2 ? S(0.5) : S(1);
}

template <class T, int V>
__device__ __forceinline__ Pack<T, V> load_if(bool wanted, const T* from) {
  Pack<T, V> pack{};
  if (wanted) pack = Pack<T, V>::load(from);
  return pack;
}

template <class T, int V>
__device__ __forceinline__ void store_rows(const Layout& layout, const Place& place,
                                           const Pack<T, V> (&packs)[kRows], T* to) {
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (inside(layout, place.row + k)) packs[k].store(to + place.element + k * layout.line);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    rectify_average_kernel(const Layout layout, const T* x, T* rectified, T* averaged) {
  using S = Opmath<T>;
  const Place place(layout, V);
  if (!inside(layout, place.row)) return;
  const Window window(layout, place.at);
  const T* const here = x + place.element;
  Pack<T, V> own[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    own[k] = load_if<T, V>(inside(layout, place.row + k), here + k * layout.line);
  }
  if (averaged != nullptr) {
    Pack<T, V> sum[kRows] = {};
#pragma unroll
    for (int q = -1; q <= kRows; ++q) {
      const bool there = inside(layout, place.row + q);
      const T* const from = here + q * layout.line;
      const auto left = load_if<T, V>(there && window.left, from - layout.pixel);
      const auto right = load_if<T, V>(there && window.right, from + layout.pixel);
      const auto middle = q >= 0 && q < kRows ? own[q] : load_if<T, V>(there, from);
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        if (q < k - 1 || q > k + 1) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum[k].lane[v] += left.lane[v] + middle.lane[v] + right.lane[v];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const S scale = share_of<S>(window.columns) * share_of<S>(covered(layout, place.row + k));
#pragma unroll
      for (int v = 0; v < V; ++v) sum[k].lane[v] *= scale;
    }
    store_rows(layout, place, sum, averaged);
  }
  if (rectified != nullptr) {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
#pragma unroll
      for (int v = 0; v < V; ++v) {  // keeps a NaN
        own[k].lane[v] = own[k].lane[v] < S(0) ? S(0) : own[k].lane[v];
      }
    }
    store_rows(layout, place, own, rectified);
  }
}

/// Readers of x itself, then of its average, then of `rectified`, whose weights are all 1.
struct Batch {
  const void* maps[kMaxReadersCuda];
  Weight weights[kMaxReadersCuda];
  int of_identity;
  int of_averaged;
  int of_rectified;
};

template <class S>
__device__ __forceinline__ S read(const Weight& weight) {
  if (weight.data == nullptr) return static_cast<S>(weight.value);
  switch (weight.dtype) {
    case DType::kFloat64:
      return static_cast<S>(*static_cast<const double*>(weight.data));
    case DType::kFloat16:
      return static_cast<S>(to_opmath(*static_cast<const __half*>(weight.data)));
    case DType::kBFloat16:
      return static_cast<S>(to_opmath(*static_cast<const __nv_bfloat16*>(weight.data)));
    default:
      return static_cast<S>(*static_cast<const float*>(weight.data));
  }
}

/// Adds A^T (sum_m u_m g_m) to `sum`, g_m being maps[0 .. count).
template <class T, int V>
__device__ __forceinline__ void add_averaged(const Layout& layout, const Place& place,
                                             const void* const* maps, const Opmath<T>* weights,
                                             int count, Pack<T, V> (&sum)[kRows]) {
  using S = Opmath<T>;
  const Window window(layout, place.at);
  // A pixel's gradient spreads over the columns that its own window covers.
  const auto share = [&](int at) { return share_of<S>(Window(layout, at).columns); };
  const S of_left = share(place.at - layout.pixel);
  const S of_middle = share(place.at);
  const S of_right = share(place.at + layout.pixel);
  S of_row[kRows + 2];
#pragma unroll
  for (int q = -1; q <= kRows; ++q) {
    of_row[q + 1] = share_of<S>(covered(layout, place.row + q));
  }
  for (int m = 0; m < count; ++m) {
    const T* const here = static_cast<const T*>(maps[m]) + place.element;
#pragma unroll
    for (int q = -1; q <= kRows; ++q) {
      const bool there = inside(layout, place.row + q);
      const T* const from = here + q * layout.line;
      const auto left = load_if<T, V>(there && window.left, from - layout.pixel);
      const auto middle = load_if<T, V>(there, from);
      const auto right = load_if<T, V>(there && window.right, from + layout.pixel);
      const S scale = weights[m] * of_row[q + 1];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const S spread =
            left.lane[v] * of_left + middle.lane[v] * of_middle + right.lane[v] * of_right;
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
          if (q >= k - 1 && q <= k + 1) sum[k].lane[v] += spread * scale;
        }
      }
    }
  }
}

/// Adds sum_n w_n g_n to `sum`; null weights are all 1.
template <class T, int V>
__device__ __forceinline__ void add_pixels(const Layout& layout, const Place& place,
                                           const void* const* maps, const Opmath<T>* weights,
                                           int count, Pack<T, V> (&sum)[kRows]) {
  using S = Opmath<T>;
  // Several at once, the last few as well: one after another, each would be waited for.
  constexpr int kAtOnce = 4;
  for (int first = 0; first < count; first += kAtOnce) {
    Pack<T, V> g[kAtOnce][kRows];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool there = first + i < count;
      const T* const here = static_cast<const T*>(maps[there ? first + i : first]) + place.element;
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        g[i][k] = load_if<T, V>(there && inside(layout, place.row + k), here + k * layout.line);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= count) break;
      const S weight = weights != nullptr ? weights[first + i] : S(1);
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
#pragma unroll
        for (int v = 0; v < V; ++v) sum[k].lane[v] += g[i][k].lane[v] * weight;
      }
    }
  }
}

// A multiprocessor then holds 1024 threads, which for a float map of a few MB is all there are. The
// other types have fewer packs, or larger ones.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 4 : 2)
    rectify_average_backward_kernel(const Layout layout, const T* rectified,
                                    const __grid_constant__ Batch batch, bool accumulate, T* grad) {
  using S = Opmath<T>;
  __shared__ S weights[kMaxReadersCuda];
  const int me = static_cast<int>(threadIdx.x);
  if (me < batch.of_identity + batch.of_averaged) weights[me] = read<S>(batch.weights[me]);

  // First what needs no weights, while they are on their way.
  const Place place(layout, V);
  Pack<T, V> sum[kRows] = {};
  const void* const* maps = batch.maps;
  if (batch.of_rectified > 0) {
    add_pixels<T, V>(layout, place, maps + batch.of_identity + batch.of_averaged, nullptr,
                     batch.of_rectified, sum);
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const auto gate =
          load_if<T, V>(inside(layout, place.row + k), rectified + place.element + k * layout.line);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[k].lane[v] = gate.lane[v] > S(0) ? sum[k].lane[v] : S(0);
      }
    }
  }
  __syncthreads();
  if (!inside(layout, place.row)) return;
  add_averaged<T, V>(layout, place, maps + batch.of_identity, weights + batch.of_identity,
                     batch.of_averaged, sum);
  add_pixels<T, V>(layout, place, maps, weights, batch.of_identity, sum);
  if (accumulate) {
    const void* const before = grad;
    add_pixels<T, V>(layout, place, &before, nullptr, 1, sum);
  }
  store_rows(layout, place, sum, grad);
}

// ---- host ----

bool aligned(const void* map) { return reinterpret_cast<uintptr_t>(map) % 16 == 0; }

bool aligned(const Readers& readers) {
  return std::all_of(readers.maps, readers.maps + readers.count,
                     [](const void* map) { return aligned(map); });
}

/// f(T{}, std::integral_constant<int, V>{}, layout, blocks): V elements are 16 bytes where that is
/// possible.
template <class T, class F>
const char* with_pack(const RowsArgs& args, int64_t images, bool whole, const F& f) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(T));
  const auto call = [&](auto width) -> const char* {
    const int64_t packs = args.width * args.channels / decltype(width)::value;
    const int64_t strips = (args.height + kRows - 1) / kRows;
    const int64_t blocks = (strips * packs + kThreads - 1) / kThreads;
    if (images * blocks == 0) return nullptr;
    // A thread's place may lie a few rows past the image's end.
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    const int64_t line = args.width * args.channels;
    if ((args.height + kRows + 1) * line + kThreads * kRows * kPack > kMost ||
        images * blocks > kMost) {
      return "an image has too many elements, or the map too many images";
    }
    const Layout layout{static_cast<int>(args.height), static_cast<int>(line),
                        static_cast<int>(args.channels), static_cast<unsigned>(packs),
                        static_cast<unsigned>(blocks)};
    return f(T{}, width, layout, dim3(static_cast<unsigned>(images * blocks), 1, 1));
  };
  if (whole && args.channels % kPack == 0) return call(std::integral_constant<int, kPack>{});
  return call(std::integral_constant<int, 1>{});
}

template <class F>
const char* dispatch(const RowsArgs& args, int64_t images, bool whole, const F& f) {
  return with_type<void, __nv_bfloat16>(args.dtype, [&](auto type) -> const char* {
    return with_pack<decltype(type)>(args, images, whole, f);
  });
}

}  // namespace

const char* rectify_average_cuda(const RowsArgs& args, int64_t images, const void* x,
                                 void* rectified, void* averaged, void* stream) {
  if (rectified == nullptr && averaged == nullptr) return nullptr;
  const bool whole = aligned(x) && aligned(rectified) && aligned(averaged);
  return dispatch(args, images, whole,
                  [&](auto type, auto width, const Layout& layout, dim3 grid) -> const char* {
                    using T = decltype(type);
                    constexpr int V = decltype(width)::value;
                    return launch(rectify_average_kernel<T, V>, grid, dim3(kThreads, 1, 1), 0,
                                  stream, layout, static_cast<const T*>(x),
                                  static_cast<T*>(rectified), static_cast<T*>(averaged));
                  });
}

const char* rectify_average_backward_cuda(const RowsArgs& args, int64_t images,
                                          const void* rectified, const Readers& of_identity,
                                          const Readers& of_rectified, const Readers& of_averaged,
                                          void* grad, void* stream) {
  const bool whole = aligned(rectified) && aligned(grad) && aligned(of_identity) &&
                     aligned(of_rectified) && aligned(of_averaged);
  return dispatch(
      args, images, whole,
      [&](auto type, auto width, const Layout& layout, dim3 grid) -> const char* {
        using T = decltype(type);
        constexpr int V = decltype(width)::value;
        Batch batch{};
        int held = 0;
        bool accumulate = false;
        const auto run = [&] {
          const char* const error = launch(
              rectify_average_backward_kernel<T, V>, grid, dim3(kThreads, 1, 1), 0, stream, layout,
              static_cast<const T*>(rectified), batch, accumulate, static_cast<T*>(grad));
          batch.of_identity = batch.of_averaged = batch.of_rectified = held = 0;
          accumulate = true;
          return error;
        };
        const auto add = [&](const Readers& readers, int& count) -> const char* {
          for (int64_t i = 0; i < readers.count; ++i) {
            if (held == kMaxReadersCuda) {
              if (const char* const error = run()) return error;
            }
            batch.maps[held] = readers.maps[i];
            batch.weights[held] = readers.weights != nullptr ? readers.weights[i] : Weight{};
            ++held;
            ++count;
          }
          return nullptr;
        };
        if (const char* const error = add(of_identity, batch.of_identity)) return error;
        if (const char* const error = add(of_averaged, batch.of_averaged)) return error;
        if (const char* const error = add(of_rectified, batch.of_rectified)) return error;
        return run();
      });
}

}  // namespace snsoftmax
