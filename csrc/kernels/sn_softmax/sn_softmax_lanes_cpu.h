// sn-softmax where lanes are rows: vector j holds element j of as many rows as there are lanes.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "common/vec.h"
#include "sn_softmax/sn_softmax_math.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {
namespace {

/// Contiguous rows up to this length are transposed and handled a vector of rows at a time.
constexpr int64_t kShortRow = 32;

/// Element j of each row of a block, `stride` apart in memory; the block has `count` rows.
template <class T>
struct Strided {
  T* base;
  int64_t stride;
  int64_t count;

  SNSOFTMAX_INLINE auto operator[](int64_t j) const {
    using Value = std::remove_const_t<T>;
    return count == kLanes<Value> ? load(base + j * stride)
                                  : load_first<Value>(base + j * stride, count, 0);
  }
  SNSOFTMAX_INLINE void set(int64_t j, Vector<T> v) const {
    if (count == kLanes<T>) {
      store(base + j * stride, v);
    } else {
      store_first(base + j * stride, count, v);
    }
  }
};

/// No gradient came in.
template <class T>
struct Zero {
  SNSOFTMAX_INLINE Vector<T> operator[](int64_t) const { return Vector<T>{}; }
};

/// A block of up to a vector of short contiguous rows, held transposed. kSize is the rows' length,
/// or 0 where only `size` knows it.
template <class T, int64_t kSize>
struct Block {
  static constexpr int64_t kCapacity = kSize ? kSize : kShortRow;
  static constexpr int64_t kLane = kLanes<T>;

  Vector<T> column[kCapacity];

  SNSOFTMAX_INLINE Vector<T> operator[](int64_t j) const { return column[j]; }
  SNSOFTMAX_INLINE void set(int64_t j, Vector<T> v) { column[j] = v; }

  SNSOFTMAX_INLINE void read(const T* rows, int64_t size, int64_t count) {
    if constexpr (kSize > 0) {
      if (count == kLane) return read_whole(rows);
    }
    Scalar<T> lanes[kCapacity][kLane] = {};
    Scalar<T> row[kCapacity + kLane];
    for (int64_t r = 0; r < count; ++r) {
      convert(rows + r * size, row, size);
      for (int64_t j = 0; j < size; ++j) lanes[j][r] = row[j];
    }
    for (int64_t j = 0; j < size; ++j) column[j] = load(lanes[j]);
  }

  SNSOFTMAX_INLINE void write(T* rows, int64_t size, int64_t count, bool past_caches) {
    if constexpr (kSize > 0) {
      if (count == kLane) return write_whole(rows, past_caches && can_stream(rows));
    }
    Scalar<T> lanes[kCapacity][kLane];
    Scalar<T> row[kCapacity + kLane];
    for (int64_t j = 0; j < size; ++j) store(lanes[j], column[j]);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = 0; j < size; ++j) row[j] = lanes[j][r];
      convert(row, rows + r * size, size);
    }
  }

 private:
  /// kCount vectors of rows of kCount elements, one after another, become vectors of columns.
  template <int64_t kCount, class V>
  static SNSOFTMAX_INLINE void transpose(V (&vectors)[kCount]) {
#pragma GCC unroll 4
    for (int64_t stage = kCount; stage > 1; stage /= 2) {
      V next[kCount];
#pragma GCC unroll 8
      for (int64_t i = 0; i < kCount / 2; ++i) {
        deinterleave(vectors[2 * i], vectors[2 * i + 1]);
        next[i] = vectors[2 * i];
        next[i + kCount / 2] = vectors[2 * i + 1];
      }
#pragma GCC unroll 16
      for (int64_t i = 0; i < kCount; ++i) vectors[i] = next[i];
    }
  }
  template <int64_t kCount, class V>
  static SNSOFTMAX_INLINE void transpose_back(V (&vectors)[kCount]) {
#pragma GCC unroll 4
    for (int64_t stage = kCount; stage > 1; stage /= 2) {
      V next[kCount];
#pragma GCC unroll 8
      for (int64_t i = 0; i < kCount / 2; ++i) {
        interleave(vectors[i], vectors[i + kCount / 2]);
        next[2 * i] = vectors[i];
        next[2 * i + 1] = vectors[i + kCount / 2];
      }
#pragma GCC unroll 16
      for (int64_t i = 0; i < kCount; ++i) vectors[i] = next[i];
    }
  }

  SNSOFTMAX_INLINE void read_whole(const T* rows) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      // Two neighbours are moved as one, which halves the exchanges; a shift or a mask widens them.
      VecU pair[kSize / 2];
#pragma GCC unroll 8
      for (int64_t j = 0; j < kSize / 2; ++j)
        std::memcpy(&pair[j], rows + 2 * j * kLane, sizeof(VecU));
      transpose(pair);
#pragma GCC unroll 8
      for (int64_t j = 0; j < kSize / 2; ++j) {
        column[2 * j] = reinterpret_cast<VecF>(pair[j] << 16);
        column[2 * j + 1] = reinterpret_cast<VecF>(pair[j] & 0xffff0000u);
      }
    } else {
#pragma GCC unroll 16
      for (int64_t j = 0; j < kSize; ++j) column[j] = load(rows + j * kLane);
      transpose(column);
    }
  }

  SNSOFTMAX_INLINE void write_whole(T* rows, bool past_caches) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      VecU pair[kSize / 2];
#pragma GCC unroll 8
      for (int64_t j = 0; j < kSize / 2; ++j) {
        pair[j] = rounded_to_bfloat16(column[2 * j]) >> 16 |
                  (rounded_to_bfloat16(column[2 * j + 1]) & 0xffff0000u);
      }
      transpose_back(pair);
#pragma GCC unroll 8
      for (int64_t j = 0; j < kSize / 2; ++j)
        std::memcpy(rows + 2 * j * kLane, &pair[j], sizeof(VecU));
    } else {
      transpose_back(column);
      if (past_caches) {
#pragma GCC unroll 16
        for (int64_t j = 0; j < kSize; ++j) stream(rows + j * kLane, column[j]);
      } else {
#pragma GCC unroll 16
        for (int64_t j = 0; j < kSize; ++j) store(rows + j * kLane, column[j]);
      }
    }
  }

  template <class From, class To>
  static SNSOFTMAX_INLINE void convert(const From* from, To* to, int64_t size) {
    int64_t j = 0;
    for (; j + kLane <= size; j += kLane) store(to + j, load(from + j));
    if (j < size) store_first(to + j, size - j, load_first(from + j, size - j, 0));
  }
};

/// The maximum of each lane's row; NaN and -inf are left to the sums.
template <class T, class In>
SNSOFTMAX_INLINE Vector<T> lanes_max(const In& a, int64_t size) {
  Vector<T> top = broadcast<Vector<T>>(Limits<Scalar<T>>::lowest);
#pragma GCC unroll 16
  for (int64_t j = 0; j < size; ++j) top = larger(top, a[j]);
  return top;
}

/// p may be e itself.
template <class T, class In, class Scratch, class Out>
SNSOFTMAX_INLINE void lanes_forward(const In& a, Scratch& e, Out& p, int64_t size,
                                    Vector<T> inverse_t, Scalar<T>* entropies, int64_t count) {
  using V = Vector<T>;
  const V top = lanes_max<T>(a, size);
  auto sums = Sums<V>::zero();
#pragma GCC unroll 16
  for (int64_t j = 0; j < size; ++j) {
    const V z = octaves(a[j], top, inverse_t);
    const V power = exp2_nonpositive(z);
    sums.add(z, power, V{});
    e.set(j, power);
  }
  const V inverse_power = Scalar<T>(1) / sums.power;
#pragma GCC unroll 16
  for (int64_t j = 0; j < size; ++j) p.set(j, e[j] * inverse_power);
  if (entropies) {
    for (int64_t i = 0; i < count; ++i) {
      entropies[i] = entropy(std::log2(sums.power[i]), inverse_power[i], sums.moment[i]);
    }
  }
}

/// e and q hold a vector an element; out may be e.
template <class T, bool kSmooth, class Grad, class In, class Scratch, class Out>
SNSOFTMAX_INLINE void lanes_backward(const Grad& g, const In& a, Scratch& e, Scratch& q, Out& out,
                                     int64_t size, const Inverses<Vector<T>>& inverse,
                                     Vector<T> tilt) {
  using V = Vector<T>;
  const V top = lanes_max<T>(a, size);
  auto sharp = Sums<V>::zero(), smooth = Sums<V>::zero();
#pragma GCC unroll 16
  for (int64_t j = 0; j < size; ++j) {
    const V z = octaves(a[j], top, inverse.t);
    const V p = exp2_nonpositive(z);
    sharp.add(z, p, g[j]);
    e.set(j, p);
    if constexpr (kSmooth) {
      const V z_st = octaves(a[j], top, inverse.st);
      const V p_st = exp2_nonpositive(z_st);
      smooth.add(z_st, p_st, g[j]);
      q.set(j, p_st);
    }
  }
  const auto at_t = Jacobian<V>::of(sharp, Scalar<T>(1) / sharp.power, tilt, inverse.t);
  const auto at_st = Jacobian<V>::of(smooth, Scalar<T>(1) / smooth.power, V{}, inverse.st);
#pragma GCC unroll 16
  for (int64_t j = 0; j < size; ++j) {
    const V z = octaves(a[j], top, inverse.t);
    if constexpr (kSmooth) {
      out.set(j, combine(z, e[j], q[j], g[j], tilt, at_t, at_st));
    } else {
      out.set(j, combine(z, e[j], g[j], tilt, at_t));
    }
  }
}

}  // namespace
}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
