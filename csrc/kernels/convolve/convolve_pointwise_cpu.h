// 1x1 convolutions, for CPU vectors: maps are matrices [pixels, channels].
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/vec.h"
#include "convolve/convolve.h"
#include "convolve/convolve_pack_cpu.h"
#include "convolve/convolve_products_cpu.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

/// Pixels whose products are summed at a time for the gradients of kernels: as many bytes of each
/// type.
template <class T>
constexpr int64_t kSummedPixels = 128 * kPair<T>;

/// f(std::integral_constant<int, R>, first row) for R rows at a time, half as many at the end.
template <int R, class F>
SNSOFTMAX_INLINE void each_rows(int64_t begin, int64_t end, const F& f) {
  int64_t row = begin;
  for (; row + R <= end; row += R) f(std::integral_constant<int, R>{}, row);
  if constexpr (R > 1) each_rows<R / 2>(row, end, f);
}

/// What sums begin with.
template <class T, int V, int R, bool kAdds>
SNSOFTMAX_INLINE Sums<T, V, R> begun(const T* y, int64_t row) {
  if constexpr (kAdds) return Sums<T, V, R>(y, row);
  return {};
}

/// y[:, m] = sum over inputs n of x_n w[m][n], or that added to y; packed is laid out by
/// packed_index.
template <class T, bool kAdds, class P, class Q>
void pointwise(const Group<P>& inputs, const T* packed, const Group<Q>& outputs, int64_t begin,
               int64_t end) {
  const int64_t depth = inputs.width();
  with_columns<T>(outputs.channels, [&](auto registers) {
    constexpr int V = registers.value;
    constexpr int64_t kColumns = V * kLanes<T>;
    each_rows<kRows<V>>(begin, end, [&](auto rows, int64_t row) __attribute__((always_inline)) {
      each_map(outputs, [&](void* map, int64_t first) __attribute__((always_inline)) {
        for (int64_t k = 0; k < outputs.channels; k += kColumns) {
          const T* const b = packed + (first + k) * depth;
          T* const to = static_cast<T*>(map) + row * outputs.channels + k;
          auto sums = begun<T, V, rows.value, kAdds>(to, outputs.channels);
          each_map(inputs, [&](const void* from, int64_t before) __attribute__((always_inline)) {
            sums.add(static_cast<const T*>(from) + row * inputs.channels, inputs.channels, kPair<T>,
                     b + before * kColumns, kColumns * kPair<T>, inputs.channels / kPair<T>);
          });
          sums.put(to, outputs.channels);
        }
      });
    });
  });
}

template <class T>
void pointwise_pack(const ConvolveArgs& args, const void* const* weights, bool backward, T* packed,
                    int64_t begin, int64_t end) {
  const int64_t depth = backward ? args.edges * args.outputs : args.inputs;
  with_columns<T>(backward ? args.inputs : args.outputs, [&](auto registers) {
    each_part<T, 1>(
        args, weights, backward, begin, end, [&](int64_t row, int64_t column, const auto& tap) {
          Vector<T> numbers[kPair<T>];
          for (int p = 0; p < kPair<T>; ++p) numbers[p] = tap(p, 0);
          put_packed<T>(packed, depth, registers.value * kLanes<T>, row, column, numbers);
        });
  });
}

/// to[pixel / 2][channels][2] of `n` pixels of `channels` from `map`; the last may have no second.
SNSOFTMAX_INLINE void pair_pixels(const BFloat16* map, int64_t channels, int64_t n, BFloat16* to) {
  for (int64_t p = 0; p < n; p += 2) {
    for (int64_t c = 0; c < channels; c += kLanes<BFloat16>) {
      VecH first, second{};
      std::memcpy(&first, map + p * channels + c, sizeof first);
      if (p + 1 < n) std::memcpy(&second, map + (p + 1) * channels + c, sizeof second);
      const VecU pairs = widen(first) | widen(second) << 16;
      std::memcpy(to + p * channels + 2 * c, &pairs, sizeof pairs);
    }
  }
}

/// sums[inputs][edges * outputs] over pixels [begin, end); x(first, n) gives n pixels of the map.
template <class T, class F>
void pointwise_sums(const ConvolveArgs& args, const Group<const void*>& grads, const F& x,
                    Scalar<T>* sums, int64_t begin, int64_t end) {
  constexpr int64_t kPixels = kSummedPixels<T>;
  const int64_t rows = args.inputs;
  const int64_t columns = grads.width();
  const bool paired = kPair<T> > 1;
  const auto from_x = scratch<T>(paired ? kPixels * rows : 0);
  const auto from_grad = scratch<T>(paired ? kPixels * args.outputs : 0);
  /// n pixels, in `buffer` where they must be paired.
  const auto pixels = [&](const T* from, int64_t channels, int64_t n, T* buffer) {
    if constexpr (kPair<T> == 1) {
      return from;
    } else {
      pair_pixels(from, channels, n, buffer);
      return static_cast<const T*>(buffer);
    }
  };
  with_columns<T>(args.outputs, [&](auto registers) {
    for (int64_t first = begin; first < end; first += kPixels) {
      const int64_t n = std::min(kPixels, end - first);
      const T* const a = pixels(x(first, n), rows, n, from_x.get());
      each_map(grads, [&](const void* grad, int64_t column) {
        const T* const from = static_cast<const T*>(grad) + first * args.outputs;
        const T* const b = pixels(from, args.outputs, n, from_grad.get());
        add_outer_products<T, registers.value>(a, rows, b, args.outputs, args.outputs, n,
                                               sums + column, columns);
      });
    }
  });
}

template <class T>
void pointwise_backward_weight(const ConvolveArgs& args, const Group<const void*>& grads,
                               const T* x, Scalar<T>* sums, int64_t begin, int64_t end) {
  const auto pixels = [&](int64_t first, int64_t) { return x + first * args.inputs; };
  pointwise_sums<T>(args, grads, pixels, sums, begin, end);
}

template <class T>
void pointwise_merge_weight(const ConvolveArgs& args, const Scalar<T>* sums, int64_t chunks,
                            void* const* grads, int64_t begin, int64_t end) {
  using S = Scalar<T>;
  const int64_t columns = args.edges * args.outputs;
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t k = 0; k < columns; ++k) {
      S sum(0);
      for (int64_t i = 0; i < chunks; ++i) sum += sums[i * args.kernel_values() + c * columns + k];
      static_cast<S*>(grads[k / args.outputs])[k % args.outputs * args.inputs + c] = sum;
    }
  }
}

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
