// Winograd's F(2x2, 3x3) and F(4x4, 3x3), for CPU vectors: what is done along one direction of a
// tile, and in which order the input's is done along both.
//
// The polynomials are interpolated at 0, infinity and 1, -1 for F(2, 3); at 0, infinity and near,
// -near, far, -far for F(4, 3). With near 2/3 and far 3/2 its rounding errors are half of those
// with the usual 1 and 2: 2.4 times a direct sum's in float.
#pragma once

#include <type_traits>

#include "common/vec.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

/// F(kSide, 3) on vectors V.
template <class V, int kSide>
struct Winograd;

template <class V>
struct Winograd<V, 2> {
  /// B^T d
  static SNSOFTMAX_INLINE void input(V (&d)[4]) {
    const V t0 = d[0] - d[2];
    const V t1 = d[1] + d[2];
    const V t2 = d[2] - d[1];
    d[3] = d[1] - d[3];
    d[0] = t0;
    d[1] = t1;
    d[2] = t2;
  }

  /// A^T m
  static SNSOFTMAX_INLINE void output(const V (&m)[4], V (&y)[2]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) - m[3];
  }

  /// A g
  static SNSOFTMAX_INLINE void gradient(const V (&g)[2], V (&t)[4]) {
    t[0] = g[0];
    t[1] = g[0] + g[1];
    t[2] = g[0] - g[1];
    t[3] = -g[1];
  }

  /// G w
  static SNSOFTMAX_INLINE void kernel(const V (&w)[3], V (&u)[4]) {
    const V outer = (w[0] + w[2]) * (V{} + 0.5f);
    const V inner = w[1] * (V{} + 0.5f);
    u[0] = w[0];
    u[1] = outer + inner;
    u[2] = outer - inner;
    u[3] = w[2];
  }

  /// G^T p
  static SNSOFTMAX_INLINE void kernel_gradient(const V (&p)[4], V (&w)[3]) {
    const V sum = (p[1] + p[2]) * (V{} + 0.5f);
    w[0] = p[0] + sum;
    w[1] = (p[1] - p[2]) * (V{} + 0.5f);
    w[2] = sum + p[3];
  }
};

template <class V>
struct Winograd<V, 4> {
  using S = std::decay_t<decltype(V{}[0])>;
  static constexpr S kNear = S(2) / 3, kNear2 = kNear * kNear;
  static constexpr S kFar = S(3) / 2, kFar2 = kFar * kFar;
  static constexpr S kBoth = kNear2 + kFar2;  // near^2 far^2 is 1
  static constexpr S kOfNear = 1 / (2 * kNear2 * (kNear2 - kFar2));
  static constexpr S kOfFar = 1 / (2 * kFar2 * (kFar2 - kNear2));

  static SNSOFTMAX_INLINE V times(V v, S s) { return v * (V{} + s); }

  /// The number of B^T d at 0, or at infinity from the three numbers beside.
  static SNSOFTMAX_INLINE V at_end(V d0, V d2, V d4) { return (d0 + d4) - times(d2, kBoth); }

  /// Those at x and -x, `other` being the square of the other two points.
  static SNSOFTMAX_INLINE void at_pair(V d1, V d2, V d3, V d4, S x, S other, V& plus, V& minus) {
    const V even = d4 - times(d2, other);
    const V odd = d3 - times(d1, other);
    plus = even + times(odd, x);
    minus = even - times(odd, x);
  }

  /// B^T d
  static SNSOFTMAX_INLINE void input(V (&d)[6]) {
    V t[6];
    t[0] = at_end(d[0], d[2], d[4]);
    at_pair(d[1], d[2], d[3], d[4], kNear, kFar2, t[1], t[2]);
    at_pair(d[1], d[2], d[3], d[4], kFar, kNear2, t[3], t[4]);
    d[5] = at_end(d[1], d[3], d[5]);
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) d[i] = t[i];
  }

  /// A^T m
  static SNSOFTMAX_INLINE void output(const V (&m)[6], V (&y)[4]) {
    const V near_even = m[1] + m[2], near_odd = m[1] - m[2];
    const V far_even = m[3] + m[4], far_odd = m[3] - m[4];
    y[0] = m[0] + near_even + far_even;
    y[1] = times(near_odd, kNear) + times(far_odd, kFar);
    y[2] = times(near_even, kNear2) + times(far_even, kFar2);
    y[3] = m[5] + times(near_odd, kNear * kNear2) + times(far_odd, kFar * kFar2);
  }

  /// A g
  static SNSOFTMAX_INLINE void gradient(const V (&g)[4], V (&t)[6]) {
    const auto pair = [&](S x, S square, V& plus, V& minus) __attribute__((always_inline)) {
      const V even = g[0] + times(g[2], square);
      const V odd = g[1] + times(g[3], square);
      plus = even + times(odd, x);
      minus = even - times(odd, x);
    };
    t[0] = g[0];
    pair(kNear, kNear2, t[1], t[2]);
    pair(kFar, kFar2, t[3], t[4]);
    t[5] = g[3];
  }

  /// G w
  static SNSOFTMAX_INLINE void kernel(const V (&w)[3], V (&u)[6]) {
    const auto pair = [&](S x, S square, S scale, V& plus, V& minus)
                          __attribute__((always_inline)) {
                            const V even = times(w[0] + times(w[2], square), scale);
                            const V odd = times(w[1], x * scale);
                            plus = even + odd;
                            minus = even - odd;
                          };
    u[0] = w[0];
    pair(kNear, kNear2, kOfNear, u[1], u[2]);
    pair(kFar, kFar2, kOfFar, u[3], u[4]);
    u[5] = w[2];
  }

  /// G^T p
  static SNSOFTMAX_INLINE void kernel_gradient(const V (&p)[6], V (&w)[3]) {
    const V near = times(p[1] + p[2], kOfNear), far = times(p[3] + p[4], kOfFar);
    w[0] = p[0] + near + far;
    w[1] = times(p[1] - p[2], kNear * kOfNear) + times(p[3] - p[4], kFar * kOfFar);
    w[2] = p[5] + times(near, kNear2) + times(far, kFar2);
  }
};

/// Tiles of B^T d B, one after the other.
template <class V, int kSide>
class InputTiles;

template <class V>
class InputTiles<V, 2> {
 public:
  /// Calls put(i, row i of B^T d B) with pixels d(i, j); does the tile lie beside the last one?
  template <class Pixel, class Put>
  SNSOFTMAX_INLINE void next(bool beside, const Pixel& d, const Put& put) {
    const auto take = [&](int j) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) columns_[j][i] = d(i, j);
      Winograd<V, 2>::input(columns_[j]);
    };
    if (beside) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        columns_[0][i] = columns_[2][i];
        columns_[1][i] = columns_[3][i];
      }
    } else {
      take(0);
      take(1);
    }
    take(2);
    take(3);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      V row[4] = {columns_[0][i], columns_[1][i], columns_[2][i], columns_[3][i]};
      Winograd<V, 2>::input(row);
      put(i, row);
    }
  }

 private:
  V columns_[4][4];  // of B^T d; neighbours share two of them
};

/// The registers do not hold 36 numbers: rows are made by those that share their sums, and a pixel
/// is read again instead.
template <class V>
class InputTiles<V, 4> {
 public:
  template <class Pixel, class Put>
  SNSOFTMAX_INLINE void next(bool, const Pixel& d, const Put& put) const {
    using W = Winograd<V, 4>;
    using S = typename W::S;
    const auto end = [&](int i, int from) __attribute__((always_inline)) {
      V row[6];
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) row[j] = W::at_end(d(from, j), d(from + 2, j), d(from + 4, j));
      W::input(row);
      put(i, row);
    };
    const auto pair = [&](int i, S x, S other) __attribute__((always_inline)) {
      V plus[6], minus[6];
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) {
        W::at_pair(d(1, j), d(2, j), d(3, j), d(4, j), x, other, plus[j], minus[j]);
      }
      W::input(plus);
      put(i, plus);
      W::input(minus);
      put(i + 1, minus);
    };
    end(0, 0);
    pair(1, W::kNear, W::kFar2);
    pair(3, W::kFar, W::kNear2);
    end(5, 1);
  }
};

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
