// Matrix products of the convolutions, for CPU vectors.
//
// bfloat16 matrices are multiplied by pairs: the two numbers that are summed into one product lie
// beside each other, as the processors' instruction takes them.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

#include "common/vec.h"
#include "convolve/convolve.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

/// How many numbers one step of a product takes.
template <class T>
constexpr int kPair = std::is_same_v<T, BFloat16> ? 2 : 1;

/// Rows that keep the multipliers busy without running out of registers.
template <int V>
constexpr int kRows = kVectorBytes < 64 ? 4
                      : V == 1          ? 16
                                        : 8;
static_assert(kConvolveChannels % kRows<1> == 0);

/// sum + a number of `a`, or a pair, with a register of b
template <class T>
SNSOFTMAX_INLINE Vector<T> add_product(Vector<T> sum, const T* a, Vector<T> b) {
  return sum + b * *a;
}
SNSOFTMAX_INLINE VecF add_product(VecF sum, const BFloat16* a, VecU b) {
  uint32_t pair;
  std::memcpy(&pair, a, sizeof pair);
  return add_products(sum, VecU{} + pair, b);
}
template <class T>
SNSOFTMAX_INLINE Vector<T> load_factors(const T* p) {
  return load(p);
}
SNSOFTMAX_INLINE VecU load_factors(const BFloat16* p) {
  VecU v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// In `to` the numbers wait that `second` makes pairs with.
SNSOFTMAX_INLINE void put_second(BFloat16* to, VecF second) {
  VecF first;
  std::memcpy(&first, to, sizeof first);
  const VecU pairs = bfloat16_pairs(first, second);
  std::memcpy(to, &pairs, sizeof pairs);
}

/// `channels` channels of each of several maps, side by side.
template <class P>
struct Group {
  P const* maps;
  int64_t count;
  int64_t channels;

  int64_t width() const { return count * channels; }
};

/// Calls f(map, its first column) for each map.
template <class P, class F>
SNSOFTMAX_INLINE void each_map(const Group<P>& group, const F& f) {
  for (int64_t m = 0; m < group.count; ++m) f(group.maps[m], m * group.channels);
}

/// R rows of V registers of a product of matrices of T.
template <class T, int V, int R = kRows<V>>
struct Sums {
  Vector<T> sum[R][V];

  SNSOFTMAX_INLINE Sums() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = Vector<T>{};
    }
  }

  /// c is of T or of its sums' type.
  template <class C>
  SNSOFTMAX_INLINE Sums(const C* c, int64_t c_row) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = load(c + r * c_row + v * kLanes<T>);
    }
  }

  /// sum[r, :] += sum over `steps` i of a[r * a_row + i * a_step] b[i * b_step, :]
  SNSOFTMAX_INLINE void add(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_step,
                            int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) {
      decltype(load_factors(b)) row[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) row[v] = load_factors(b + i * b_step + v * kLanes<T> * kPair<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          sum[r][v] = add_product(sum[r][v], a + r * a_row + i * a_step, row[v]);
        }
      }
    }
  }

  /// c is of T or of its sums' type.
  template <class C>
  SNSOFTMAX_INLINE void put(C* c, int64_t c_row) const {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(c + r * c_row + v * kLanes<T>, sum[r][v]);
    }
  }
};

/// a and b become a + b and a - b.
template <class T, int V, int R>
SNSOFTMAX_INLINE void add_and_subtract(Sums<T, V, R>& a, Sums<T, V, R>& b) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vector<T> difference = a.sum[r][v] - b.sum[r][v];
      a.sum[r][v] += b.sum[r][v];
      b.sum[r][v] = difference;
    }
  }
}

/// Calls f(std::integral_constant<int, V>) with V registers of columns to be taken at a time.
template <class T, class F>
void with_columns(int64_t columns, const F& f) {
  const int64_t registers = columns / kLanes<T>;
  if (registers % 3 == 0) return f(std::integral_constant<int, 3>{});
  if (registers % 2 == 0) return f(std::integral_constant<int, 2>{});
  return f(std::integral_constant<int, 1>{});
}

/// Where a matrix [depth, columns] that is multiplied by has an element:
/// [columns / width][depth / pair][width][pair], `width` being the columns taken at a time.
template <class T>
SNSOFTMAX_INLINE int64_t packed_index(int64_t depth, int64_t width, int64_t row, int64_t column) {
  const int64_t line = (column / width * depth + row / kPair<T> * kPair<T>)*width;
  return line + column % width * kPair<T> + row % kPair<T>;
}

/// Memory that nothing is in yet.
template <class T>
std::unique_ptr<T[]> scratch(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

/// c[rows, columns] += sum over `steps` of a[step, rows] b[step, columns], pairs of steps beside
/// each other.
template <class T, int V>
void add_outer_products(const T* a, int64_t rows, const T* b, int64_t b_width, int64_t columns,
                        int64_t steps, Scalar<T>* c, int64_t c_row) {
  constexpr int64_t kP = kPair<T>;
  for (int64_t k = 0; k < columns; k += V * kLanes<T>) {
    for (int64_t r = 0; r < rows; r += kRows<V>) {
      Sums<T, V> sums(c + r * c_row + k, c_row);
      sums.add(a + r * kP, kP, rows * kP, b + k * kP, b_width * kP, (steps + kP - 1) / kP);
      sums.put(c + r * c_row + k, c_row);
    }
  }
}

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
