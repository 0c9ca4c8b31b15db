// sn-softmax where lanes are elements: one long contiguous row at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "common/vec.h"
#include "sn_softmax/sn_softmax_math.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {
namespace {

/// Calls f(offset, lanes in use) for each vector of a row.
template <class T, class F>
SNSOFTMAX_INLINE void each_vector(int64_t size, F f) {
  int64_t j = 0;
  for (; j + kLanes<T> <= size; j += kLanes<T>) f(j, kLanes<T>);
  if (j < size) f(j, size - j);
}

/// Calls f(offset, lanes in use) for each vector of a row and writes what it returns.
template <class T, class F>
SNSOFTMAX_INLINE void write_vectors(T* out, int64_t size, bool past_caches, F f) {
  constexpr int64_t kLane = kLanes<T>;
  int64_t j = 0;
  if (past_caches) {
    // Rows start anywhere: up to the first whole vector in memory, then streams.
    const auto address = reinterpret_cast<uintptr_t>(out) / sizeof(T);
    j = std::min<int64_t>(size, -address % kLane);
    if (j > 0) store_first(out, j, f(0, j));
    for (; j + kLane <= size; j += kLane) stream(out + j, f(j, kLane));
  } else {
    for (; j + kLane <= size; j += kLane) store(out + j, f(j, kLane));
  }
  if (j < size) store_first(out + j, size - j, f(j, size - j));
}

/// Asks for element j of the row after `row`, which the next pass over memory begins with. (Beyond
/// the last row that is an address like any other: nothing is read.)
template <class T>
SNSOFTMAX_INLINE void prefetch_next(const T* row, int64_t size, int64_t j) {
  __builtin_prefetch(row + size + j, 0, 2);
}

template <class T>
SNSOFTMAX_INLINE Vector<T> get(const T* p, int64_t n, Scalar<T> fill) {
  return n == kLanes<T> ? load(p) : load_first(p, n, fill);
}
template <class T>
SNSOFTMAX_INLINE Scalar<T> row_max(const T* a, int64_t size) {
  constexpr Scalar<T> lowest = Limits<Scalar<T>>::lowest;
  Vector<T> top[4];  // four chains hide the latency of a comparison
  for (auto& t : top) t = broadcast<Vector<T>>(lowest);
  int64_t j = 0;
  for (; j + 4 * kLanes<T> <= size; j += 4 * kLanes<T>) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) top[k] = larger(top[k], load(a + j + k * kLanes<T>));
  }
  for (; j < size; j += kLanes<T>) {
    top[0] = larger(top[0], get(a + j, std::min<int64_t>(kLanes<T>, size - j), lowest));
  }
  return highest(larger(larger(top[0], top[1]), larger(top[2], top[3])));
}

template <class V>
SNSOFTMAX_INLINE Sums<Element<V>> across(const Sums<V>& sums) {
  return {sum(sums.power), sum(sums.moment), sum(sums.dot)};
}

template <class T, bool kEntropy>
void row_forward(const T* a, T* p, int64_t size, Scalar<T> inverse_t, Scalar<T>* row_entropy,
                 bool past_caches, Scalar<T>* e) {
  using S = Scalar<T>;
  using V = Vector<T>;
  const S top = row_max(a, size);
  auto sums = Sums<V>::zero();
  each_vector<T>(size, [&](int64_t j, int64_t n) {
    prefetch_next(a, size, j);
    const V z = octaves(get(a + j, n, S(-INFINITY)), top, inverse_t);
    const V power = exp2_nonpositive(z);
    sums.power += power;
    if constexpr (kEntropy) sums.moment += power * z;
    store(e + j, power);
  });
  const Sums<S> total = across(sums);
  const S inverse_power = S(1) / total.power;
  write_vectors(p, size, past_caches,
                [&](int64_t j, int64_t) { return load(e + j) * inverse_power; });
  if constexpr (kEntropy) {
    *row_entropy = entropy(std::log2(total.power), inverse_power, total.moment);
  }
}

/// kTilt: whether a gradient of the entropy came in; without it nothing needs z a second time.
template <class T, bool kSmooth, bool kTilt>
void row_backward(const T* g, const T* a, T* out, int64_t size, const Inverses<Scalar<T>>& inverse,
                  Scalar<T> tilt, bool past_caches, Scalar<T>* e, Scalar<T>* q) {
  using S = Scalar<T>;
  using V = Vector<T>;
  const S top = row_max(a, size);
  auto sharp = Sums<V>::zero(), smooth = Sums<V>::zero();
  each_vector<T>(size, [&](int64_t j, int64_t n) {
    prefetch_next(a, size, j);
    const V aj = get(a + j, n, S(-INFINITY));
    const V gj = g ? get(g + j, n, S(0)) : V{};
    const V z = octaves(aj, top, inverse.t);
    const V p = exp2_nonpositive(z);
    sharp.power += p;
    sharp.dot += p * (kTilt ? gj - tilt * z : gj);
    store(e + j, p);
    if constexpr (kSmooth) {
      const V p_st = exp2_nonpositive(octaves(aj, top, inverse.st));
      smooth.power += p_st;
      smooth.dot += p_st * gj;
      store(q + j, p_st);
    }
  });
  const Sums<S> sums = across(sharp), sums_st = across(smooth);
  const auto at_t = Jacobian<S>::of(sums, S(1) / sums.power, S(0), inverse.t);
  const auto at_st = Jacobian<S>::of(sums_st, S(1) / sums_st.power, S(0), inverse.st);
  write_vectors(out, size, past_caches, [&](int64_t j, int64_t n) {
    const V gj = g ? get(g + j, n, S(0)) : V{};
    V z{};
    if constexpr (kTilt) z = octaves(get(a + j, n, S(-INFINITY)), top, inverse.t);
    const S slant = kTilt ? tilt : S(0);
    if constexpr (kSmooth) {
      return combine(z, load(e + j), load(q + j), gj, slant, at_t, at_st);
    } else {
      return combine(z, load(e + j), gj, slant, at_t);
    }
  });
}

}  // namespace
}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
