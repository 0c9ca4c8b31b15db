// A row of a map is one flat array, in which the horizontal neighbour of an element is `channels`
// elements away; the average is a sum of three rows followed by a sum of three shifted copies.
#include "rectify_average/rectify_average.h"

#include <algorithm>
#include <vector>

#include "common/capability.h"
#include "common/vec.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(
    void rectify_average(const RowsArgs&, const void*, void*, void*, int64_t, int64_t);
    void rectify_average_backward(const RowsArgs&, const void*, const Readers&, const Readers&,
                                  const Readers&, void*, int64_t, int64_t))

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
  std::vector<S> kept = std::vector<S>(static_cast<size_t>(3 * length));
  int64_t held[3] = {-1, -1, -1};  // the rows in `kept`

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

  /// The weighted sum of the readers' gradients at element i.
  template <class Get>
  SNSOFTMAX_INLINE V read(const Readers& readers, int64_t i, const Get& get) const {
    V v{};
    for (int64_t n = 0; n < readers.count; ++n) {
      const V g = get(static_cast<const T*>(readers.maps[n]) + i);
      v += readers.weights == nullptr ? g : g * static_cast<S>(readers.weights[n].value);
    }
    return v;
  }

  /// Row q of sum_m u_m g_m / count. Three are kept, for the next rows need them again.
  const S* shares(const Readers& of_averaged, int64_t q) {
    const int64_t slot = q % 3;
    S* const row = kept.data() + slot * length;
    if (held[slot] == q) return row;
    held[slot] = q;
    each_part<S>(args, [&](int64_t begin, int64_t end,
                           S share_of_width) __attribute__((always_inline)) {
      const S scale = share(q) * share_of_width;
      each_vector<T>(begin, end, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
        put(row + i, read(of_averaged, q * length + i, get) * scale);
      });
    });
    return row;
  }

  void backward(const T* rectified, const Readers& of_identity, const Readers& of_rectified,
                const Readers& of_averaged, T* grad, int64_t r) {
    const bool averaged = of_averaged.count > 0;
    if (averaged) {
      const S* above = shares(of_averaged, first(r));
      const S* here = shares(of_averaged, r);
      const S* below = shares(of_averaged, stop(r) - 1);
      const S in_above = first(r) < r ? S(1) : S(0);  // at a border it is this row again
      const S in_below = stop(r) - 1 > r ? S(1) : S(0);
      each_vector<T>(0, length, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
        put(column + i, get(here + i) + get(above + i) * in_above + get(below + i) * in_below);
      });
    }
    const int64_t start = r * length;
    each_vector<T>(0, length, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
      V v = read(of_identity, start + i, get);
      if (of_rectified.count > 0) {
        const V through = read(of_rectified, start + i, get);
        v += select(get(rectified + start + i) > V{}, through, V{});
      }
      if (averaged) {
        v += get(column + i - args.channels) + get(column + i) + get(column + i + args.channels);
      }
      put(grad + start + i, v);
    });
  }
};

}  // namespace

void rectify_average(const RowsArgs& args, const void* x, void* rectified, void* averaged,
                     int64_t begin, int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    using T = decltype(type);
    Rows<T> rows{args};
    for (int64_t r = begin; r < end; ++r) {
      rows.forward(static_cast<const T*>(x), static_cast<T*>(rectified), static_cast<T*>(averaged),
                   r);
    }
  });
}

void rectify_average_backward(const RowsArgs& args, const void* rectified,
                              const Readers& of_identity, const Readers& of_rectified,
                              const Readers& of_averaged, void* grad, int64_t begin, int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    using T = decltype(type);
    Rows<T> rows{args};
    for (int64_t r = begin; r < end; ++r) {
      rows.backward(static_cast<const T*>(rectified), of_identity, of_rectified, of_averaged,
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
                                  const Readers& of_identity, const Readers& of_rectified,
                                  const Readers& of_averaged, void* grad, int64_t begin,
                                  int64_t end) {
  SNSOFTMAX_DISPATCH(rectify_average_backward, args, rectified, of_identity, of_rectified,
                     of_averaged, grad, begin, end);
}
#endif

}  // namespace snsoftmax
