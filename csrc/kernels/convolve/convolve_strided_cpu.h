// 1x1 and 3x3 convolutions of stride 2, for CPU vectors: direct sums over taps.
//
// The rows of x that a row of results reads are copied between zeros. The taps of a row of a kernel
// then lie beside each other, those of the next result two pixels further: a matrix whose rows
// overlap, which the products read where it is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "common/vec.h"
#include "convolve/convolve.h"
#include "convolve/convolve_pack_cpu.h"
#include "convolve/convolve_pointwise_cpu.h"
#include "convolve/convolve_products_cpu.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

/// Results beside each other in a row, one a tile.
struct Run {
  int64_t image, i, j;  ///< of the first
  int64_t count;

  /// Calls f(run) for each part of tiles [begin, end) that is within a row, `most` at a time.
  template <class F>
  static SNSOFTMAX_INLINE void each(const ConvolveArgs& args, int64_t begin, int64_t end,
                                    int64_t most, const F& f) {
    for (int64_t tile = begin; tile < end;) {
      const int64_t row = tile / args.across(), j = tile % args.across();
      const int64_t count = std::min({args.across() - j, end - tile, most});
      f(Run{row / args.down(), row % args.down(), j, count});
      tile += count;
    }
  }

  int64_t first(const ConvolveArgs& args) const {
    return (image * args.down() + i) * args.across() + j;
  }
};

/// Copies pixels [first, first + count) of a row of a map, zeros for those outside it.
template <class T>
void copy_row(const T* map, int64_t channels, int64_t height, int64_t width, int64_t image,
              int64_t row, int64_t first, int64_t count, T* to) {
  const int64_t begin = std::clamp<int64_t>(row < 0 || row >= height ? count : -first, 0, count);
  const int64_t end = std::clamp(width - first, begin, count);
  std::fill(to, to + begin * channels, T{});
  if (begin < end) {
    const T* const from = map + ((image * height + row) * width + first + begin) * channels;
    std::copy(from, from + (end - begin) * channels, to + begin * channels);
  }
  std::fill(to + end * channels, to + count * channels, T{});
}

/// What the results of runs of up to `most` read of x: for each row of the kernel the pixels from
/// the first tap of the first result to the last one of the last.
template <class T>
class Rows {
 public:
  Rows(const ConvolveArgs& args, const T* x, int64_t most)
      : args_(args),
        x_(x),
        step_((2 * most + args.kernel) * args.inputs),
        data_(scratch<T>(args.kernel * step_)) {}

  void read(const Run& run) {
    const int64_t before = args_.kernel / 2;
    for (int64_t p = 0; p < args_.kernel; ++p) {
      copy_row(x_, args_.inputs, args_.height, args_.width, run.image, 2 * run.i + p - before,
               2 * run.j - before, 2 * (run.count - 1) + args_.kernel, data_.get() + p * step_);
    }
  }

  /// The taps of row p of the kernel, of the run's result r.
  const T* at(int64_t p, int64_t r) const { return data_.get() + p * step_ + 2 * r * args_.inputs; }

 private:
  const ConvolveArgs& args_;
  const T* x_;
  int64_t step_;
  std::unique_ptr<T[]> data_;
};

/// Forward: one matrix [taps * inputs, edges * outputs]; backward: one [edges * outputs, inputs] a
/// tap.
template <class T>
void strided_pack(const ConvolveArgs& args, const void* const* weights, bool backward, T* packed,
                  int64_t begin, int64_t end) {
  const int64_t all = args.edges * args.outputs;
  const auto pack = [&](auto taps) {
    with_columns<T>(backward ? args.inputs : args.outputs, [&](auto registers) {
      constexpr int64_t kColumns = registers.value * kLanes<T>;
      each_part<T, taps.value>(
          args, weights, backward, begin, end, [&](int64_t row, int64_t column, const auto& tap) {
            for (int t = 0; t < taps.value; ++t) {
              Vector<T> numbers[kPair<T>];
              for (int p = 0; p < kPair<T>; ++p) numbers[p] = tap(p, t);
              if (backward) {
                put_packed<T>(packed + t * all * args.inputs, all, kColumns, row, column, numbers);
              } else {
                put_packed<T>(packed, taps.value * args.inputs, kColumns, t * args.inputs + row,
                              column, numbers);
              }
            }
          });
    });
  };
  if (args.kernel == 1) return pack(std::integral_constant<int, 1>{});
  pack(std::integral_constant<int, 9>{});
}

template <class T>
void strided_forward(const ConvolveArgs& args, const T* x, const T* packed,
                     const Group<void*>& outputs, int64_t begin, int64_t end) {
  const int64_t depth = args.kernel * args.inputs;  // of a row of a kernel
  Rows<T> rows(args, x, args.across());
  with_columns<T>(outputs.channels, [&](auto registers) {
    constexpr int V = registers.value;
    constexpr int64_t kColumns = V * kLanes<T>;
    Run::each(args, begin, end, args.across(), [&](const Run& run) {
      rows.read(run);
      each_rows<kRows<V>>(0, run.count, [&](auto count, int64_t r) __attribute__((always_inline)) {
        each_map(outputs, [&](void* map, int64_t first) __attribute__((always_inline)) {
          T* const to = static_cast<T*>(map) + (run.first(args) + r) * outputs.channels;
          for (int64_t k = 0; k < outputs.channels; k += kColumns) {
            Sums<T, V, count.value> sums;
            for (int64_t p = 0; p < args.kernel; ++p) {
              const T* const b = packed + ((first + k) * args.kernel + p * kColumns) * depth;
              sums.add(rows.at(p, r), 2 * args.inputs, kPair<T>, b, kColumns * kPair<T>,
                       depth / kPair<T>);
            }
            sums.put(to + k, outputs.channels);
          }
        });
      });
    });
  });
}

/// Along one direction: from which result a tap reaches pixel 0 or 1 of a tile. The tile's own is
/// 0, the next 1, none -1.
inline int64_t reached(const ConvolveArgs& args, int64_t pixel, int64_t tap) {
  const int64_t twice = pixel + args.kernel / 2 - tap;
  return twice < 0 || twice % 2 != 0 ? -1 : twice / 2;
}

/// The pixels of x of a tile sum over the taps that read them, each with its result's gradient.
template <class T>
void strided_backward_map(const ConvolveArgs& args, const Group<const void*>& grads,
                          const T* packed, T* grad_map, int64_t begin, int64_t end) {
  const int64_t c = args.inputs, m = args.outputs;
  const int64_t step = (args.across() + 1) * m;  // of a row of a map's results
  const auto rows = scratch<T>(2 * step * grads.count);
  with_columns<T>(c, [&](auto registers) {
    constexpr int V = registers.value;
    constexpr int64_t kColumns = V * kLanes<T>;
    Run::each(args, begin, end, args.across(), [&](const Run& run) {
      each_map(grads, [&](const void* map, int64_t first) {
        for (int64_t i = 0; i < 2; ++i) {
          copy_row(static_cast<const T*>(map), m, args.down(), args.across(), run.image, run.i + i,
                   run.j, run.count + 1, rows.get() + (2 * first / m + i) * step);
        }
      });
      for (int64_t pixel = 0; pixel < 4; ++pixel) {
        const int64_t y = pixel / 2, x = pixel % 2;
        if (2 * run.i + y >= args.height) continue;
        T* const to =
            grad_map + ((run.image * args.height + 2 * run.i + y) * args.width + 2 * run.j + x) * c;
        const int64_t there = std::min(run.count, (args.width - 2 * run.j - x + 1) / 2);
        each_rows<kRows<V>>(0, there, [&](auto count, int64_t r) __attribute__((always_inline)) {
          for (int64_t k = 0; k < c; k += kColumns) {
            Sums<T, V, count.value> sums;
            for (int64_t t = 0; t < args.points(); ++t) {
              const int64_t i = reached(args, y, t / args.kernel);
              const int64_t j = reached(args, x, t % args.kernel);
              if (i < 0 || j < 0) continue;
              const T* const b = packed + (t * c + k) * grads.width();
              for (int64_t e = 0; e < grads.count; ++e) {
                sums.add(rows.get() + (2 * e + i) * step + (r + j) * m, m, kPair<T>,
                         b + e * m * kColumns, kColumns * kPair<T>, m / kPair<T>);
              }
            }
            sums.put(to + 2 * r * c + k, 2 * c);
          }
        });
      }
    });
  });
}

/// The 1x1 convolution of all taps side by side, whose kernels have the same numbers in their
/// order.
inline ConvolveArgs of_taps(const ConvolveArgs& args) {
  ConvolveArgs found = args;
  found.kernel = found.stride = 1;
  found.inputs *= args.points();
  return found;
}

template <class T>
void strided_backward_weight(const ConvolveArgs& args, const Group<const void*>& grads, const T* x,
                             Scalar<T>* sums, int64_t begin, int64_t end) {
  const int64_t depth = args.kernel * args.inputs;
  const int64_t most = std::min(args.across(), kSummedPixels<T>);
  Rows<T> rows(args, x, most);
  const auto taps = scratch<T>(kSummedPixels<T> * args.kernel * depth);
  const auto pixels = [&](int64_t first, int64_t n) {
    T* to = taps.get();
    Run::each(args, first, first + n, most, [&](const Run& run) {
      rows.read(run);
      for (int64_t r = 0; r < run.count; ++r) {
        for (int64_t p = 0; p < args.kernel; ++p, to += depth) {
          std::copy(rows.at(p, r), rows.at(p, r) + depth, to);
        }
      }
    });
    return static_cast<const T*>(taps.get());
  };
  pointwise_sums<T>(of_taps(args), grads, pixels, sums, begin, end);
}

template <class T>
void strided_merge_weight(const ConvolveArgs& args, const Scalar<T>* sums, int64_t chunks,
                          void* const* grads, int64_t begin, int64_t end) {
  const int64_t taps = args.points();
  pointwise_merge_weight<T>(of_taps(args), sums, chunks, grads, begin * taps, end * taps);
}

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
