// How the convolutions' kernels are laid out for their products, for CPU vectors.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/vec.h"
#include "convolve/convolve.h"
#include "convolve/convolve_products_cpu.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

/// Puts rows [row, row + kPair<T>) of columns [column, column + kLanes<T>) into a packed matrix.
template <class T>
SNSOFTMAX_INLINE void put_packed(T* packed, int64_t depth, int64_t width, int64_t row,
                                 int64_t column, const Vector<T> (&numbers)[kPair<T>]) {
  T* const to = packed + packed_index<T>(depth, width, row, column);
  if constexpr (kPair<T> == 1) {
    store(to, numbers[0]);
  } else {
    const VecU pairs = bfloat16_pairs(numbers[0], numbers[1]);
    std::memcpy(to, &pairs, sizeof pairs);
  }
}

/// Calls f(row, column, tap) for each part of the matrices of kernels that put_packed takes, with
/// tap(p, t) the t-th tap of row + p; of blocks [begin, end) of output channels. Rows are input
/// channels and columns output channels, or the other way round for backward passes.
template <class T, int kTaps, class F>
SNSOFTMAX_INLINE void each_part(const ConvolveArgs& args, const void* const* weights, bool backward,
                                int64_t begin, int64_t end, const F& f) {
  constexpr int64_t kN = kConvolveChannels;
  Scalar<T> taps[kTaps][kN][kN];
  for (int64_t k = begin * kN; k < end * kN; k += kN) {
    const auto* const w = static_cast<const Scalar<T>*>(weights[k / args.outputs]) +
                          k % args.outputs * kTaps * args.inputs;
    for (int64_t c = 0; c < args.inputs; c += kN) {
      for (int64_t i = 0; i < kN; ++i) {
        for (int64_t t = 0; t < kTaps; ++t) {
          const auto* const from = w + (i * kTaps + t) * args.inputs + c;
          for (int64_t j = 0; j < kN; ++j) taps[t][backward ? i : j][backward ? j : i] = from[j];
        }
      }
      for (int64_t i = 0; i < kN; i += kPair<T>) {
        for (int64_t j = 0; j < kN; j += kLanes<T>) {
          const auto tap = [&](int p, int t)
                               __attribute__((always_inline)) { return load(&taps[t][i + p][j]); };
          f(i + (backward ? k : c), j + (backward ? c : k), tap);
        }
      }
    }
  }
}

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
