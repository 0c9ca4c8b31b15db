// The arithmetic of one row, for the CPU's vector types and for a CUDA thread alike.
//
// A value type V is float, double or a GCC vector of either, with the elements of one row in its
// lanes or one row per lane. Nothing here branches, allocates or calls a transcendental function:
// the caller brings its own exp2 and log2.
//
// Exponents are kept in octaves, z = (a - max a) log2(e) / t, so that exp(.) is 2^z. A z whose
// power is zero is held at Limits::floor: a logit of -inf then adds an exact zero to every sum
// (no 0 * inf), while a NaN still reaches all of them, and through them the whole row. A row of
// nothing but -inf has sum 0 and becomes NaN by 1 / 0.
#pragma once

#include <cfloat>
#include <type_traits>
#include <utility>

#include "common/host_device.h"

namespace snsoftmax {

template <class V, bool = std::is_arithmetic<V>::value>
struct ElementOf {
  using type = V;
};
template <class V>
struct ElementOf<V, false> {
  using type = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<V&>()[0])>>;
};
/// float or double: the type of a lane of V.
template <class V>
using Element = typename ElementOf<V>::type;

template <class S>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float lowest = -FLT_MAX;       // the maximum of nothing, see octaves()
  static constexpr float steepest = FLT_MAX / 2;  // times log2(e) it is still finite
  static constexpr float floor = -127.0f;         // the caller's exp2 makes it an exact zero
};
template <>
struct Limits<double> {
  static constexpr double lowest = -DBL_MAX;
  static constexpr double steepest = DBL_MAX / 2;
  static constexpr double floor = -1023.0;
};

template <class S>
struct Constants {
  static constexpr S log2e = S(1.4426950408889634074);
  static constexpr S ln2 = S(0.6931471805599453094);
};

template <class V>
SN_HOST_DEVICE V broadcast(Element<V> s) {
  return V{} + s;
}

/// The larger of a and b; NaN where a is NaN, and where only b is, a or NaN.
template <class V>
SN_HOST_DEVICE V larger(V a, V b) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same<V, float>::value) {  // one instruction instead of two
    V c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
  }
#endif
  return b > a ? b : a;
}

/// 1 / t for a scalar t: finite for every t > 0, and NaN, which makes the row NaN, otherwise.
template <class S>
SN_HOST_DEVICE S inverse_temperature(S t) {
  const S inverse = S(1) / t;
  const S finite = inverse < Limits<S>::steepest ? inverse : Limits<S>::steepest;
  return t > S(0) ? finite : (t - t) / (t - t);
}

/// 1 / t and 1 / st of a row; inv_st is 0 where there is no smooth term.
template <class V>
struct Inverses {
  V t;
  V st;
};

/// z of the elements `a`, given their row's maximum (Limits::lowest while it is unknown, never
/// -inf) and its 1 / t. Both may be scalars or vectors.
template <class V, class M, class R>
SN_HOST_DEVICE V octaves(V a, M max, R inverse) {
  const V z = (a - max) * (inverse * Constants<Element<V>>::log2e);
  return larger(z, broadcast<V>(Limits<Element<V>>::floor));
}

/// Sums over a row, or a part of one, at one temperature: power = sum 2^z, moment = sum 2^z z,
/// dot = sum 2^z g.
template <class V>
struct Sums {
  V power;
  V moment;
  V dot;

  static SN_HOST_DEVICE Sums zero() { return {V{}, V{}, V{}}; }

  /// One more element: its z, its p = 2^z, its incoming gradient.
  SN_HOST_DEVICE void add(V z, V p, V g) {
    power += p;
    moment += p * z;
    dot += p * g;
  }

  SN_HOST_DEVICE void add(const Sums& other) {
    power += other.power;
    moment += other.moment;
    dot += other.dot;
  }

  /// The same sums relative to another maximum: z = octaves(old max, new max, inverse), p = 2^z.
  SN_HOST_DEVICE void rescale(V z, V p) {
    moment = p * (moment + z * power);
    power *= p;
    dot *= p;
  }
};

/// H = -sum p log p (Eq. 13) in nats, from a row's sums.
template <class V>
SN_HOST_DEVICE V entropy(V log2_power, V inverse_power, V moment) {
  const V h = (log2_power - moment * inverse_power) * Constants<Element<V>>::ln2;
  return larger(h, V{});
}

/// One term of Eq. 8 for a whole row: J_x v / x = slope p (v - mean) with p = 2^z.
template <class V>
struct Jacobian {
  V slope;
  V mean;

  /// v = g - tilt z; `tilt` = grad_entropy * ln 2 at t, and 0 at st.
  static SN_HOST_DEVICE Jacobian of(const Sums<V>& sums, V inverse_power, V tilt, V inverse) {
    return {inverse * inverse_power, (sums.dot - tilt * sums.moment) * inverse_power};
  }
};

/// Eq. 8 for the elements with z (at t), p = 2^z, q = 2^(z at st) and incoming gradient g. The row
/// values (J) may be scalars or vectors.
template <class V, class J>
SN_HOST_DEVICE V combine(V z, V p, V q, V g, J tilt, const Jacobian<J>& at_t,
                         const Jacobian<J>& at_st) {
  const V sharp = (p * at_t.slope) * (g - tilt * z - at_t.mean);
  const V smooth = (q * at_st.slope) * (g - at_st.mean);
  return sharp + smooth;
}

/// Eq. 8 without its smooth term: ordinary softmax.
template <class V, class J>
SN_HOST_DEVICE V combine(V z, V p, V g, J tilt, const Jacobian<J>& at_t) {
  return (p * at_t.slope) * (g - tilt * z - at_t.mean);
}

}  // namespace snsoftmax
