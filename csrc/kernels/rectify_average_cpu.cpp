// A row of a map is one flat array, in which the horizontal neighbour of an element is `channels`
// elements away; the average is a sum of three rows followed by a sum of three shifted copies.
#include "rectify_average.h"

#include <algorithm>
#include <vector>

#include "capability.h"
#include "vec.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(
    void rectify_average(const RowsArgs&, const void*, void*, void*, int64_t, int64_t);
    void rectify_average_backward(const RowsArgs&, const void*, const void*, const void* const*,
                                  int64_t, const void*, void*, int64_t, int64_t))

namespace SNSOFTMAX_CAPABILITY {
namespace {

/// f(i, load, store) for each vector of [begin, end); the last one is partial.
template <class T, class F>
SNSOFTMAX_INLINE void each_vector(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + kLanes<T> <= end; i += kLanes<T>) {
    f(
        i, [](const auto* p) __attribute__((always_inline)) { return load(p); },
        [](auto* p, auto v) __attribute__((always_inline)) { store(p, v); });
  }
  if (const int64_t n = end - i; n > 0) {
    f(
        i, [n](const auto* p) __attribute__((always_inline)) { return load_first(p, n, 0); },
        [n](auto* p, auto v) __attribute__((always_inline)) { store_first(p, n, v); });
  }
}

/// Pixels of [0, size) that a window of three around `i` covers.
int64_t covered(int64_t i, int64_t size) {
  return std::min(i + 1, size - 1) - std::max<int64_t>(i - 1, 0) + 1;
}

/// Calls f(begin, end, 1 / pixels covered horizontally) for the parts of a row.
template <class S, class F>
SNSOFTMAX_INLINE void each_part(const RowsArgs& args, const F& f) {
  const int64_t c = args.channels;
  const int64_t last = args.width - 1;
  f(int64_t{0}, c, S(1) / static_cast<S>(covered(0, args.width)));
  if (last > 1) f(c, last * c, S(1) / S(3));
  if (last > 0) f(last * c, (last + 1) * c, S(1) / static_cast<S>(covered(last, args.width)));
}

template <class T>
struct Rows {
  using S = typename Op<T>::scalar;
  using V = typename Op<T>::vector;

  const RowsArgs& args;
  int64_t length = args.width * args.channels;
  /// The vertical sum of a row between two pixels of zeros.
  std::vector<S> padded = std::vector<S>(static_cast<size_t>(length + 2 * args.channels));
  S* column = padded.data() + args.channels;

  /// The rows that a window around row r covers, as flat indices.
  int64_t first(int64_t r) const { return r % args.height == 0 ? r : r - 1; }
  int64_t stop(int64_t r) const { return r % args.height == args.height - 1 ? r + 1 : r + 2; }
  S share(int64_t r) const { return S(1) / static_cast<S>(covered(r % args.height, args.height)); }
  void forward(const T* x, T* rectified, T* averaged, int64_t r) {
    if (rectified != nullptr) {
      each_vector<T>(r * length, (r + 1) * length,
                     [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
                       const V v = get(x + i);
                       put(rectified + i, select(v < V{}, V{}, v));  // keeps a NaN
                     });
    }
    if (averaged == nullptr) return;
    each_vector<T>(0, length, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
      V v{};
      for (int64_t q = first(r); q < stop(r); ++q) v += get(x + q * length + i);
      put(column + i, v);
    });
    each_part<S>(args, [&](int64_t begin, int64_t end,
                           S share_of_width) __attribute__((always_inline)) {
      const S scale = share(r) * share_of_width;
      each_vector<T>(begin, end, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
        const V v =
            get(column + i - args.channels) + get(column + i) + get(column + i + args.channels);
        put(averaged + r * length + i, v * scale);
      });
    });
  }

  void backward(const T* rectified, const T* grad_identity, const void* const* grad_rectified,
                int64_t readers, const T* grad_averaged, T* grad, int64_t r) {
    if (grad_averaged != nullptr) {
      each_part<S>(
          args, [&](int64_t begin, int64_t end, S share_of_width) __attribute__((always_inline)) {
            each_vector<T>(
                begin, end, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
                  V v{};
                  for (int64_t q = first(r); q < stop(r); ++q) {
                    v += get(grad_averaged + q * length + i) * (share(q) * share_of_width);
                  }
                  put(column + i, v);
                });
          });
    }
    const int64_t start = r * length;
    each_vector<T>(0, length, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
      V v{};
      if (grad_identity != nullptr) v += get(grad_identity + start + i);
      if (readers > 0) {
        V through{};
        for (int64_t q = 0; q < readers; ++q) {
          through += get(static_cast<const T*>(grad_rectified[q]) + start + i);
        }
        v += select(get(rectified + start + i) > V{}, through, V{});
      }
      if (grad_averaged != nullptr) {
        v += get(column + i - args.channels) + get(column + i) + get(column + i + args.channels);
      }
      put(grad + start + i, v);
    });
  }
};

template <class F>
void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat64:
      return f(double{});
    case DType::kBFloat16:
      return f(BFloat16{});
    default:
      return f(float{});
  }
}

}  // namespace

void rectify_average(const RowsArgs& args, const void* x, void* rectified, void* averaged,
                     int64_t begin, int64_t end) {
  with_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    Rows<T> rows{args};
    for (int64_t r = begin; r < end; ++r) {
      rows.forward(static_cast<const T*>(x), static_cast<T*>(rectified), static_cast<T*>(averaged),
                   r);
    }
  });
}

void rectify_average_backward(const RowsArgs& args, const void* rectified,
                              const void* grad_identity, const void* const* grad_rectified,
                              int64_t readers, const void* grad_averaged, void* grad, int64_t begin,
                              int64_t end) {
  with_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    Rows<T> rows{args};
    for (int64_t r = begin; r < end; ++r) {
      rows.backward(static_cast<const T*>(rectified), static_cast<const T*>(grad_identity),
                    grad_rectified, readers, static_cast<const T*>(grad_averaged),
                    static_cast<T*>(grad), r);
    }
  });
}

}  // namespace SNSOFTMAX_CAPABILITY

#ifdef SNSOFTMAX_DEFINE_DISPATCH
void rectify_average_cpu(const RowsArgs& args, const void* x, void* rectified, void* averaged,
                         int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(rectify_average, args, x, rectified, averaged, begin, end);
}

void rectify_average_backward_cpu(const RowsArgs& args, const void* rectified,
                                  const void* grad_identity, const void* const* grad_rectified,
                                  int64_t readers, const void* grad_averaged, void* grad,
                                  int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(rectify_average_backward, args, rectified, grad_identity, grad_rectified,
                     readers, grad_averaged, grad, begin, end);
}
#endif

}  // namespace snsoftmax
