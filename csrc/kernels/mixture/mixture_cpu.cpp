// The mixture on CPU vectors. A block of pixels is small enough for the first-level cache; within
// it, a register holds adjacent channels and the loop runs over pixels.
#include "mixture/mixture.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "common/capability.h"
#include "common/vec.h"
#include "mixture/mixture_math.h"

#define SNSOFTMAX_LAMBDA __attribute__((always_inline))

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(
    void mixture_statistics(const MixtureArgs&, double*, int64_t, int64_t, int64_t);
    void mixture_combine(const MixtureArgs&, const void*, const void*, const void*, MixtureMap,
                         MixtureMap, int64_t, int64_t);
    void mixture_reduce(const MixtureArgs&, const void*, MixtureMap, bool, double*, int64_t,
                        int64_t);
    void mixture_write(const MixtureArgs&, const void*, const void*, MixtureMap,
                       const MixtureGradients&, int64_t, int64_t))

namespace SNSOFTMAX_CAPABILITY {
namespace {

int64_t block_pixels(int64_t channels) {
  constexpr int64_t kElements = 4096;
  return std::max<int64_t>(16, kElements / std::max<int64_t>(1, channels));
}

/// N lanes of S. Spelled out for each N: GCC loses a vector_size that depends on a template.
template <class S, int N>
struct Vector;
#define SNSOFTMAX_VECTOR(S, N)                                  \
  template <>                                                   \
  struct Vector<S, N> {                                         \
    typedef S type __attribute__((vector_size(N * sizeof(S)))); \
  };
#define SNSOFTMAX_VECTORS(N)    \
  SNSOFTMAX_VECTOR(float, N)    \
  SNSOFTMAX_VECTOR(double, N)   \
  SNSOFTMAX_VECTOR(uint16_t, N) \
  SNSOFTMAX_VECTOR(uint32_t, N)
SNSOFTMAX_VECTORS(1)
SNSOFTMAX_VECTORS(2)
SNSOFTMAX_VECTORS(4)
SNSOFTMAX_VECTORS(8)
SNSOFTMAX_VECTORS(16)
#undef SNSOFTMAX_VECTORS
#undef SNSOFTMAX_VECTOR

/// N adjacent channels of a map of T, in opmath. N is a power of two, up to a register's lanes.
template <class T, int N>
struct Channels {
  using S = typename Op<T>::scalar;
  using V = typename Vector<S, N>::type;
  using H = typename Vector<uint16_t, N>::type;
  using U = typename Vector<uint32_t, N>::type;

  static SNSOFTMAX_INLINE V load(const T* p) {
    if constexpr (N == kLanes<T>) {
      return snsoftmax::SNSOFTMAX_CAPABILITY::load(p);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      H h;
      std::memcpy(&h, p, sizeof h);
      return reinterpret_cast<V>(__builtin_convertvector(h, U) << 16);
    } else {
      return load_op(p);
    }
  }
  static SNSOFTMAX_INLINE V load_op(const S* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static SNSOFTMAX_INLINE void store(T* p, V v) {
    if constexpr (N == kLanes<T>) {
      snsoftmax::SNSOFTMAX_CAPABILITY::store(p, v);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      const U u = reinterpret_cast<U>(v);
      const U even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
      const U out = v != v ? (u >> 16) | 0x40u : even;  // rounding could make a NaN infinite
      const H h = __builtin_convertvector(out, H);
      std::memcpy(p, &h, sizeof h);
    } else {
      std::memcpy(p, &v, sizeof v);
    }
  }
  /// into[i] += v[i]
  static SNSOFTMAX_INLINE void add_to(double* into, V v) {
    for (int i = 0; i < N; ++i) into[i] += static_cast<double>(v[i]);
  }
};

/// Calls f(std::integral_constant<int, N>, first channel) for each group of N adjacent channels:
/// whole registers first, then halves of them for what is left.
template <int N, class F>
SNSOFTMAX_INLINE void each_group(int64_t channels, int64_t first, const F& f) {
  for (; first + N <= channels; first += N) f(std::integral_constant<int, N>{}, first);
  if constexpr (N > 1) {
    if (first < channels) each_group<N / 2>(channels, first, f);
  }
}

template <class T>
T* at(const MixtureMap& map, int64_t pixel) {
  return static_cast<T*>(map.data) + pixel * map.stride;
}

// ---- statistics ----

/// Moments of `n` pixels of N channels, merged into those of the `before` pixels seen so far.
///
/// The sums are shifted by the mean of the first few values, which bounds the cancellation in
/// sum (y - shift)^2 by n / 8 however far the values are from zero.
template <class T, int N>
SNSOFTMAX_INLINE void block_statistics(const T* y, int64_t stride, int64_t n, double before,
                                       double* mean, double* m2) {
  using L = Channels<T, N>;
  using V = typename L::V;
  const int64_t few = std::min<int64_t>(n, 8);
  V shift{};
  for (int64_t p = 0; p < few; ++p) shift += L::load(y + p * stride);
  shift *= V{} + typename L::S(1) / static_cast<typename L::S>(few);

  V sum[4] = {};
  V squares[4] = {};
  int64_t p = 0;
  for (; p + 4 <= n; p += 4) {
    for (int u = 0; u < 4; ++u) {
      const V d = L::load(y + (p + u) * stride) - shift;
      sum[u] += d;
      squares[u] += d * d;
    }
  }
  for (; p < n; ++p) {
    const V d = L::load(y + p * stride) - shift;
    sum[0] += d;
    squares[0] += d * d;
  }
  const V s = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  const V q = (squares[0] + squares[1]) + (squares[2] + squares[3]);
  for (int i = 0; i < N; ++i) {
    Moments moments{before, mean[i], m2[i]};
    moments.merge(Moments::of(static_cast<double>(n), shift[i], s[i], q[i]));
    mean[i] = moments.mean;
    m2[i] = moments.m2;
  }
}

template <class T>
void statistics(const MixtureArgs& args, double* partial, int64_t before, int64_t begin,
                int64_t end) {
  const int64_t block = block_pixels(args.channels);
  double* const m2 = partial + args.normalized * args.channels;
  // Maps inside blocks: slices of one tensor then share the cache lines that hold them both.
  for (int64_t b = begin; b < end; b += block) {
    const int64_t n = std::min(block, end - b);
    for (int k = 0; k < args.normalized; ++k) {
      each_group<kLanes<T>>(args.channels, 0, [&](auto lanes, int64_t c) SNSOFTMAX_LAMBDA {
        const int64_t i = k * args.channels + c;
        block_statistics<T, lanes.value>(at<const T>(args.maps[k], b) + c, args.maps[k].stride, n,
                                         static_cast<double>(before + b - begin), partial + i,
                                         m2 + i);
      });
    }
  }
}

// ---- combine ----

/// `U` pixels of N channels from pixel p.
template <class T, int N, int U>
SNSOFTMAX_INLINE void combine_pixels(const MixtureArgs& args, const typename Op<T>::scalar* weights,
                                     const typename Op<T>::scalar* mean,
                                     const typename Op<T>::scalar* scale, MixtureMap out,
                                     MixtureMap rectified, int64_t p, int64_t c) {
  using L = Channels<T, N>;
  using V = typename L::V;
  V sum[U] = {};
  for (int k = 0; k < args.normalized; ++k) {
    const T* const y = at<const T>(args.maps[k], p) + c;
    const V mean_k = L::load_op(mean + k * args.channels + c);
    const V scale_k = L::load_op(scale + k * args.channels + c);
    for (int u = 0; u < U; ++u) {
      sum[u] = add_normalized(sum[u], L::load(y + u * args.maps[k].stride), mean_k, scale_k);
    }
  }
  for (int l = args.normalized; l < args.normalized + args.plain; ++l) {
    const T* const x = at<const T>(args.maps[l], p) + c;
    for (int u = 0; u < U; ++u) sum[u] += weights[l] * L::load(x + u * args.maps[l].stride);
  }
  T* const to = at<T>(out, p) + c;
  for (int u = 0; u < U; ++u) L::store(to + u * out.stride, sum[u]);
  if (rectified.data != nullptr) {
    T* const also = at<T>(rectified, p) + c;
    for (int u = 0; u < U; ++u) {
      L::store(also + u * rectified.stride, sum[u] < V{} ? V{} : sum[u]);
    }
  }
}

template <class T>
void combine(const MixtureArgs& args, const typename Op<T>::scalar* weights,
             const typename Op<T>::scalar* mean, const typename Op<T>::scalar* rstd, MixtureMap out,
             MixtureMap rectified, int64_t begin, int64_t end) {
  using S = typename Op<T>::scalar;
  std::vector<S> scale(static_cast<size_t>(args.normalized * args.channels));
  for (size_t i = 0; i < scale.size(); ++i) {
    scale[i] = weights[static_cast<int64_t>(i) / args.channels] * rstd[i];
  }
  constexpr int kUnroll = kVectorBytes == 64 ? 8 : 4;
  const int64_t block = block_pixels(args.channels);
  for (int64_t b = begin; b < end; b += block) {
    const int64_t stop = std::min(b + block, end);
    each_group<kLanes<T>>(args.channels, 0, [&](auto lanes, int64_t c) SNSOFTMAX_LAMBDA {
      int64_t p = b;
      for (; p + kUnroll <= stop; p += kUnroll) {
        combine_pixels<T, lanes.value, kUnroll>(args, weights, mean, scale.data(), out, rectified,
                                                p, c);
      }
      for (; p < stop; ++p) {
        combine_pixels<T, lanes.value, 1>(args, weights, mean, scale.data(), out, rectified, p, c);
      }
    });
  }
}

// ---- backward ----

/// Sum over n pixels of g (y - shift).
template <class T, int N>
SNSOFTMAX_INLINE typename Channels<T, N>::V block_product(const T* g, int64_t g_stride, const T* y,
                                                          int64_t y_stride, int64_t n,
                                                          typename Channels<T, N>::V shift) {
  using L = Channels<T, N>;
  typename L::V sum[4] = {};
  int64_t p = 0;
  for (; p + 4 <= n; p += 4) {
    for (int u = 0; u < 4; ++u) {
      sum[u] += L::load(g + (p + u) * g_stride) * (L::load(y + (p + u) * y_stride) - shift);
    }
  }
  for (; p < n; ++p) sum[0] += L::load(g + p * g_stride) * (L::load(y + p * y_stride) - shift);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

template <class T, int N>
SNSOFTMAX_INLINE typename Channels<T, N>::V block_sum(const T* g, int64_t stride, int64_t n) {
  using L = Channels<T, N>;
  typename L::V sum[4] = {};
  int64_t p = 0;
  for (; p + 4 <= n; p += 4) {
    for (int u = 0; u < 4; ++u) sum[u] += L::load(g + (p + u) * stride);
  }
  for (; p < n; ++p) sum[0] += L::load(g + p * stride);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

template <class T>
void reduce(const MixtureArgs& args, const typename Op<T>::scalar* mean, MixtureMap grad,
            bool plain_too, double* partial, int64_t begin, int64_t end) {
  const int maps = args.normalized + args.plain;
  const int read = plain_too ? maps : args.normalized;
  std::fill(partial, partial + (1 + maps) * args.channels, 0.0);
  const int64_t block = block_pixels(args.channels);
  for (int64_t b = begin; b < end; b += block) {
    const int64_t n = std::min(block, end - b);
    each_group<kLanes<T>>(args.channels, 0, [&](auto lanes, int64_t c) SNSOFTMAX_LAMBDA {
      constexpr int N = lanes.value;
      using L = Channels<T, N>;
      const T* const g = at<const T>(grad, b) + c;
      L::add_to(partial + c, block_sum<T, N>(g, grad.stride, n));
      for (int i = 0; i < read; ++i) {
        typename L::V shift{};
        if (i < args.normalized) shift = L::load_op(mean + i * args.channels + c);
        L::add_to(partial + (1 + i) * args.channels + c,
                  block_product<T, N>(g, grad.stride, at<const T>(args.maps[i], b) + c,
                                      args.maps[i].stride, n, shift));
      }
    });
  }
}

/// to[p] (+)= f(p) for n pixels of N channels.
template <class T, int N, class F>
SNSOFTMAX_INLINE void write_block(T* to, int64_t stride, bool accumulate, int64_t n, const F& f) {
  using L = Channels<T, N>;
  if (accumulate) {
    for (int64_t p = 0; p < n; ++p) L::store(to + p * stride, L::load(to + p * stride) + f(p));
  } else {
    for (int64_t p = 0; p < n; ++p) L::store(to + p * stride, f(p));
  }
}

template <class T>
void write(const MixtureArgs& args, const typename Op<T>::scalar* weights,
           const typename Op<T>::scalar* lines, MixtureMap grad, const MixtureGradients& gradients,
           int64_t begin, int64_t end) {
  const int64_t block = block_pixels(args.channels);
  for (int64_t b = begin; b < end; b += block) {
    const int64_t n = std::min(block, end - b);
    each_group<kLanes<T>>(args.channels, 0, [&](auto lanes, int64_t c) SNSOFTMAX_LAMBDA {
      constexpr int N = lanes.value;
      using L = Channels<T, N>;
      const T* const g = at<const T>(grad, b) + c;
      for (int i = 0; i < args.normalized + args.plain; ++i) {
        const MixtureMap& to = gradients.maps[i];
        if (to.data == nullptr) continue;
        const bool accumulate = (gradients.accumulate >> i & 1) != 0;
        if (i < args.normalized) {
          const auto line = [&](int part) SNSOFTMAX_LAMBDA {
            return L::load_op(lines + (4 * i + part) * args.channels + c);
          };
          const auto mean = line(0), slope = line(1), tilt = line(2), shift = line(3);
          const T* const y = at<const T>(args.maps[i], b) + c;
          const int64_t stride = args.maps[i].stride;
          write_block<T, N>(
              at<T>(to, b) + c, to.stride, accumulate, n, [&](int64_t p) SNSOFTMAX_LAMBDA {
                return normalized_gradient(L::load(g + p * grad.stride), L::load(y + p * stride),
                                           mean, slope, tilt, shift);
              });
        } else {
          write_block<T, N>(at<T>(to, b) + c, to.stride, accumulate, n,
                            [&](int64_t p) SNSOFTMAX_LAMBDA {
                              return weights[i] * L::load(g + p * grad.stride);
                            });
        }
      }
    });
  }
}

}  // namespace

void mixture_statistics(const MixtureArgs& args, double* partial, int64_t before, int64_t begin,
                        int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    statistics<decltype(type)>(args, partial, before, begin, end);
  });
}

void mixture_combine(const MixtureArgs& args, const void* weights, const void* mean,
                     const void* rstd, MixtureMap out, MixtureMap rectified, int64_t begin,
                     int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    using S = typename Op<decltype(type)>::scalar;
    combine<decltype(type)>(args, static_cast<const S*>(weights), static_cast<const S*>(mean),
                            static_cast<const S*>(rstd), out, rectified, begin, end);
  });
}

void mixture_reduce(const MixtureArgs& args, const void* mean, MixtureMap grad, bool plain_too,
                    double* partial, int64_t begin, int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    using S = typename Op<decltype(type)>::scalar;
    reduce<decltype(type)>(args, static_cast<const S*>(mean), grad, plain_too, partial, begin, end);
  });
}

void mixture_write(const MixtureArgs& args, const void* weights, const void* lines, MixtureMap grad,
                   const MixtureGradients& gradients, int64_t begin, int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    using S = typename Op<decltype(type)>::scalar;
    write<decltype(type)>(args, static_cast<const S*>(weights), static_cast<const S*>(lines), grad,
                          gradients, begin, end);
  });
}

}  // namespace SNSOFTMAX_CAPABILITY

#if defined(SNSOFTMAX_DEFINE_DISPATCH)
void mixture_statistics_cpu(const MixtureArgs& args, double* partial, int64_t before, int64_t begin,
                            int64_t end) {
  SNSOFTMAX_DISPATCH(mixture_statistics, args, partial, before, begin, end);
}

void mixture_combine_cpu(const MixtureArgs& args, const void* weights, const void* mean,
                         const void* rstd, MixtureMap out, MixtureMap rectified, int64_t begin,
                         int64_t end) {
  SNSOFTMAX_DISPATCH(mixture_combine, args, weights, mean, rstd, out, rectified, begin, end);
}

void mixture_reduce_cpu(const MixtureArgs& args, const void* mean, MixtureMap grad, bool plain_too,
                        double* partial, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(mixture_reduce, args, mean, grad, plain_too, partial, begin, end);
}

void mixture_write_cpu(const MixtureArgs& args, const void* weights, const void* lines,
                       MixtureMap grad, const MixtureGradients& gradients, int64_t begin,
                       int64_t end) {
  SNSOFTMAX_DISPATCH(mixture_write, args, weights, lines, grad, gradients, begin, end);
}
#endif

}  // namespace snsoftmax
