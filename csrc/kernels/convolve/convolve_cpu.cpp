// Tiles are taken in blocks. A block's transformed tiles are 16 matrices [tiles, channels], which
// stay in the second-level cache while each is multiplied by its [inputs, outputs] matrix.
#include "convolve/convolve.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/capability.h"
#include "common/vec.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(
    void convolve_pack(const ConvolveArgs&, const void* const*, bool, void*, int64_t, int64_t);
    void convolve_forward(const ConvolveArgs&, const void*, const void*, void* const*, int64_t,
                          int64_t);
    void convolve_backward_map(const ConvolveArgs&, const void* const*, const void*, void*, int64_t,
                               int64_t);
    void convolve_backward_weight(const ConvolveArgs&, const void* const*, const void*, void*,
                                  int64_t, int64_t);
    void convolve_merge_weight(const ConvolveArgs&, const void*, int64_t, void* const*, int64_t,
                               int64_t))

namespace SNSOFTMAX_CAPABILITY {
namespace {

constexpr int64_t kBlock = 32;    // tiles
constexpr int64_t kPixels = 128;  // whose gradients of 1x1 kernels are summed at a time
constexpr int kPoints = 16;       // values of a transformed tile

/// Values from one matrix of a block to the next. Not a power of two, or the values of a tile would
/// compete for the same sets of the first-level cache.
constexpr int64_t matrix_step(int64_t width) { return kBlock * width + 16; }

// ---- matrix products ----

/// Rows that keep the multipliers busy without running out of registers.
template <int V>
constexpr int kRows = kVectorBytes < 64 ? 4
                      : V == 1          ? 16
                                        : 8;
static_assert(kBlock % kRows<1> == 0 && kConvolveChannels % kRows<1> == 0);

/// c[r, :] (+)= sum_i a[r * a_row + i * a_step] b[i * b_step, :] for R rows of V registers
template <class S, int V, int R = kRows<V>>
SNSOFTMAX_INLINE void multiply(const S* a, int64_t a_row, int64_t a_step, const S* b,
                               int64_t b_step, int64_t depth, S* c, int64_t c_row,
                               bool accumulate) {
  using Vector = typename Op<S>::vector;
  Vector sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sum[r][v] = accumulate ? load(c + r * c_row + v * kLanes<S>) : Vector{};
    }
  }
  for (int64_t i = 0; i < depth; ++i) {
    Vector row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load(b + i * b_step + v * kLanes<S>);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const S factor = a[r * a_row + i * a_step];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] += row[v] * factor;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(c + r * c_row + v * kLanes<S>, sum[r][v]);
  }
}

/// Calls f(std::integral_constant<int, V>) with V registers of columns to be taken at a time.
template <class S, class F>
void with_columns(int64_t columns, const F& f) {
  const int64_t registers = columns / kLanes<S>;
  if (registers % 3 == 0) return f(std::integral_constant<int, 3>{});
  if (registers % 2 == 0) return f(std::integral_constant<int, 2>{});
  return f(std::integral_constant<int, 1>{});
}

// ---- tiles ----

/// `channels` channels of each of several maps, side by side.
template <class P>
struct Group {
  P const* maps;
  int64_t count;
  int64_t channels;

  int64_t width() const { return count * channels; }
};

/// Where a tile lies: its first output pixel.
struct Tile {
  int64_t image, y, x;

  Tile(const ConvolveArgs& args, int64_t index)
      : image(index / args.across() / args.down()),
        y(index / args.across() % args.down() * 2),
        x(index % args.across() * 2) {}
};

/// The 16 registers of a transformed tile, those of one matrix of the block `step` apart.
template <class S>
SNSOFTMAX_INLINE void put(S* to, int64_t step, const typename Op<S>::vector (&v)[4][4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store(to + (4 * i + j) * step, v[i][j]);
  }
}

/// B^T d along one direction.
template <class V>
SNSOFTMAX_INLINE void transform_input(V& d0, V& d1, V& d2, V& d3) {
  const V t0 = d0 - d2;
  const V t1 = d1 + d2;
  const V t2 = d2 - d1;
  d3 = d1 - d3;
  d0 = t0;
  d1 = t1;
  d2 = t2;
}

/// Calls f(map, its first column) for each map.
template <class P, class F>
SNSOFTMAX_INLINE void each_map(const Group<P>& group, const F& f) {
  for (int64_t m = 0; m < group.count; ++m) f(group.maps[m], m * group.channels);
}

/// to[point][tile][column] = B^T d B of `n` tiles from `first`.
template <class S, class P>
void transform_inputs(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                      S* to) {
  using V = typename Op<S>::vector;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  const int64_t step = matrix_step(group.width());
  static const S zeros[kLanes<S>] = {};
  for (int64_t b = 0; b < n; ++b) {
    const Tile tile(args, first + b);
    const int64_t offset = (tile.image * args.height + tile.y - 1) * row + (tile.x - 1) * channels;
    const bool inside =
        tile.y > 0 && tile.x > 0 && tile.y + 2 < args.height && tile.x + 2 < args.width;
    each_map(group, [&](const void* map, int64_t column) __attribute__((always_inline)) {
      const S* const from = static_cast<const S*>(map);
      S* const at = to + b * group.width() + column;
      for (int64_t c = 0; c < channels; c += kLanes<S>) {
        V d[4][4];
        if (inside) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) d[i][j] = load(from + offset + i * row + j * channels + c);
          }
        } else {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            const bool row_inside = tile.y + i >= 1 && tile.y + i <= args.height;
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
              const bool in = row_inside && tile.x + j >= 1 && tile.x + j <= args.width;
              d[i][j] = load(in ? from + offset + i * row + j * channels + c : zeros);
            }
          }
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) transform_input(d[0][j], d[1][j], d[2][j], d[3][j]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) transform_input(d[i][0], d[i][1], d[i][2], d[i][3]);
        put(at + c, step, d);
      }
    });
  }
}

/// Calls f(y, x) for the tile's pixels that the map has.
template <class F>
SNSOFTMAX_INLINE void each_pixel(const ConvolveArgs& args, const Tile& tile, const F& f) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      if (tile.y + i < args.height && tile.x + j < args.width) f(i, j);
    }
  }
}

/// to[point][tile][column] = A g A^T of `n` tiles from `first`.
template <class S, class P>
void transform_gradients(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                         S* to) {
  using V = typename Op<S>::vector;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  const int64_t step = matrix_step(group.width());
  for (int64_t b = 0; b < n; ++b) {
    const Tile tile(args, first + b);
    const int64_t offset = (tile.image * args.height + tile.y) * row + tile.x * channels;
    each_map(group, [&](const void* map, int64_t column) __attribute__((always_inline)) {
      const S* const from = static_cast<const S*>(map) + offset;
      S* const at = to + b * group.width() + column;
      for (int64_t c = 0; c < channels; c += kLanes<S>) {
        V g[2][2] = {};
        each_pixel(args, tile, [&](int i, int j) __attribute__((always_inline)) {
          g[i][j] = load(from + i * row + j * channels + c);
        });
        V t[4][2];
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          t[0][j] = g[0][j];
          t[1][j] = g[0][j] + g[1][j];
          t[2][j] = g[0][j] - g[1][j];
          t[3][j] = -g[1][j];
        }
        V z[4][4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          z[i][0] = t[i][0];
          z[i][1] = t[i][0] + t[i][1];
          z[i][2] = t[i][0] - t[i][1];
          z[i][3] = -t[i][1];
        }
        put(at + c, step, z);
      }
    });
  }
}

/// Maps from A^T m A of from[point][tile][column].
template <class S, class P>
void transform_outputs(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                       const S* from) {
  using V = typename Op<S>::vector;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  const int64_t step = matrix_step(group.width());
  for (int64_t b = 0; b < n; ++b) {
    const Tile tile(args, first + b);
    const int64_t offset = (tile.image * args.height + tile.y) * row + tile.x * channels;
    each_map(group, [&](void* map, int64_t column) __attribute__((always_inline)) {
      S* const to = static_cast<S*>(map) + offset;
      const S* const at = from + b * group.width() + column;
      for (int64_t c = 0; c < channels; c += kLanes<S>) {
        V t[2][4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          V m[4];
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) m[i] = load(at + (4 * i + j) * step + c);
          t[0][j] = m[0] + (m[1] + m[2]);
          t[1][j] = (m[1] - m[2]) - m[3];
        }
        V y[2][2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          y[i][0] = t[i][0] + (t[i][1] + t[i][2]);
          y[i][1] = (t[i][1] - t[i][2]) - t[i][3];
        }
        each_pixel(args, tile, [&](int i, int j) __attribute__((always_inline)) {
          store(to + i * row + j * channels + c, y[i][j]);
        });
      }
    });
  }
}

// ---- 3x3 ----

/// packed[point][columns / V registers][depth][V registers]
template <class S, class P, class Q>
void winograd(const ConvolveArgs& args, const Group<P>& inputs, const void* packed,
              const Group<Q>& outputs, int64_t begin, int64_t end) {
  const int64_t depth = inputs.width();
  const int64_t columns = outputs.width();
  std::vector<S> transformed(static_cast<size_t>(kPoints * matrix_step(depth)));
  std::vector<S> products(static_cast<size_t>(kPoints * matrix_step(columns)));
  with_columns<S>(columns, [&](auto registers) {
    constexpr int V = registers.value;
    constexpr int64_t kColumns = V * kLanes<S>;
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t n = std::min(kBlock, end - first);
      transform_inputs(args, inputs, first, n, transformed.data());
      for (int point = 0; point < kPoints; ++point) {
        const S* const a = transformed.data() + point * matrix_step(depth);
        const S* const b = static_cast<const S*>(packed) + point * depth * columns;
        S* const c = products.data() + point * matrix_step(columns);
        for (int64_t k = 0; k < columns; k += kColumns) {
          for (int64_t r = 0; r < n; r += kRows<V>) {
            multiply<S, V>(a + r * depth, depth, 1, b + k * depth, kColumns, depth,
                           c + r * columns + k, columns, false);
          }
        }
      }
      transform_outputs(args, outputs, first, n, products.data());
    }
  });
}

/// G w along one direction.
template <class V>
SNSOFTMAX_INLINE void transform_kernel(V w0, V w1, V w2, V (&u)[4]) {
  const V outer = (w0 + w2) * (V{} + 0.5f);
  const V inner = w1 * (V{} + 0.5f);
  u[0] = w0;
  u[1] = outer + inner;
  u[2] = outer - inner;
  u[3] = w2;
}

/// G^T p along one direction.
template <class V>
SNSOFTMAX_INLINE void transform_kernel_back(V p0, V p1, V p2, V p3, V (&w)[3]) {
  const V sum = (p1 + p2) * (V{} + 0.5f);
  w[0] = p0 + sum;
  w[1] = (p1 - p2) * (V{} + 0.5f);
  w[2] = sum + p3;
}

template <class S>
void winograd_pack(const ConvolveArgs& args, const void* const* weights, bool backward, S* packed,
                   int64_t begin, int64_t end) {
  using V = typename Op<S>::vector;
  const int64_t depth = backward ? args.edges * args.outputs : args.inputs;
  const int64_t columns = backward ? args.inputs : args.edges * args.outputs;
  with_columns<S>(columns, [&](auto registers) {
    constexpr int64_t kColumns = registers.value * kLanes<S>;
    const auto place = [&](int64_t row, int64_t column) {
      return packed + (column / kColumns * depth + row) * kColumns + column % kColumns;
    };
    for (int64_t k = begin; k < end; ++k) {
      const S* const w =
          static_cast<const S*>(weights[k / args.outputs]) + k % args.outputs * 9 * args.inputs;
      for (int64_t c = 0; c < args.inputs; c += kLanes<S>) {
        V half[3][4];
        for (int j = 0; j < 3; ++j) {
          const auto tap = [&](int i) __attribute__((always_inline)) {
            return load(w + (backward ? 8 - 3 * i - j : 3 * i + j) * args.inputs + c);
          };
          transform_kernel(tap(0), tap(1), tap(2), half[j]);
        }
        for (int i = 0; i < 4; ++i) {
          V u[4];
          transform_kernel(half[0][i], half[1][i], half[2][i], u);
          for (int j = 0; j < 4; ++j) {
            const int64_t point = (4 * i + j) * depth * columns;
            if (backward) {
              store(place(k, c) + point, u[j]);
            } else {
              for (int lane = 0; lane < kLanes<S>; ++lane) place(c + lane, k)[point] = u[j][lane];
            }
          }
        }
      }
    }
  });
}

template <class S>
void winograd_backward_weight(const ConvolveArgs& args, const Group<const void*>& grads,
                              const Group<const void*>& x, S* sums, int64_t begin, int64_t end) {
  const int64_t rows = x.width();
  const int64_t columns = grads.width();
  std::vector<S> inputs(static_cast<size_t>(kPoints * matrix_step(rows)));
  std::vector<S> gradients(static_cast<size_t>(kPoints * matrix_step(columns)));
  std::fill(sums, sums + args.kernel_values(), S(0));
  with_columns<S>(columns, [&](auto registers) {
    constexpr int V = registers.value;
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t n = std::min(kBlock, end - first);
      transform_inputs(args, x, first, n, inputs.data());
      transform_gradients(args, grads, first, n, gradients.data());
      for (int point = 0; point < kPoints; ++point) {
        const S* const a = inputs.data() + point * matrix_step(rows);
        const S* const b = gradients.data() + point * matrix_step(columns);
        S* const c = sums + point * rows * columns;
        for (int64_t k = 0; k < columns; k += V * kLanes<S>) {
          for (int64_t r = 0; r < rows; r += kRows<V>) {
            multiply<S, V>(a + r, 1, rows, b + k, columns, n, c + r * columns + k, columns, true);
          }
        }
      }
    }
  });
}

template <class S>
void winograd_merge_weight(const ConvolveArgs& args, const S* sums, int64_t chunks,
                           void* const* grads, int64_t begin, int64_t end) {
  using V = typename Op<S>::vector;
  const int64_t columns = args.edges * args.outputs;
  const int64_t point = args.inputs * columns;
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t k = 0; k < columns; k += kLanes<S>) {
      const auto total = [&](int at) __attribute__((always_inline)) {
        V sum{};
        for (int64_t i = 0; i < chunks; ++i) {
          sum += load(sums + i * args.kernel_values() + at * point + c * columns + k);
        }
        return sum;
      };
      V half[4][3];
      for (int j = 0; j < 4; ++j) {
        transform_kernel_back(total(j), total(4 + j), total(8 + j), total(12 + j), half[j]);
      }
      S* const to =
          static_cast<S*>(grads[k / args.outputs]) + k % args.outputs * 9 * args.inputs + c;
      for (int i = 0; i < 3; ++i) {
        V w[3];
        transform_kernel_back(half[0][i], half[1][i], half[2][i], half[3][i], w);
        for (int j = 0; j < 3; ++j) {
          for (int lane = 0; lane < kLanes<S>; ++lane) {
            to[(lane * 9 + 3 * i + j) * args.inputs] = w[j][lane];
          }
        }
      }
    }
  }
}

// ---- 1x1: maps are matrices [pixels, channels] ----

/// rows(std::integral_constant<int, R>, first row) for R rows at a time, one by one at the end.
template <int R, class F>
SNSOFTMAX_INLINE void each_rows(int64_t begin, int64_t end, const F& f) {
  int64_t row = begin;
  for (; row + R <= end; row += R) f(std::integral_constant<int, R>{}, row);
  for (; row < end; ++row) f(std::integral_constant<int, 1>{}, row);
}

/// y[:, m] = sum over inputs n of x_n w[m][n]; packed is [column / V registers][depth][V
/// registers].
template <class S, class P, class Q>
void pointwise(const Group<P>& inputs, const void* packed, const Group<Q>& outputs, int64_t begin,
               int64_t end) {
  const int64_t depth = inputs.width();
  with_columns<S>(outputs.channels, [&](auto registers) {
    constexpr int V = registers.value;
    each_rows<kRows<V>>(begin, end, [&](auto rows, int64_t row) __attribute__((always_inline)) {
      each_map(outputs, [&](void* map, int64_t first) __attribute__((always_inline)) {
        for (int64_t k = 0; k < outputs.channels; k += V * kLanes<S>) {
          S* const c = static_cast<S*>(map) + row * outputs.channels + k;
          const S* const b = static_cast<const S*>(packed) + (first + k) * depth;
          each_map(inputs, [&](const void* from, int64_t before) __attribute__((always_inline)) {
            multiply<S, V, rows.value>(static_cast<const S*>(from) + row * inputs.channels,
                                       inputs.channels, 1, b + before * V * kLanes<S>,
                                       V * kLanes<S>, inputs.channels, c, outputs.channels,
                                       before > 0);
          });
        }
      });
    });
  });
}

template <class S>
void pointwise_pack(const ConvolveArgs& args, const void* const* weights, bool backward, S* packed,
                    int64_t begin, int64_t end) {
  const int64_t depth = backward ? args.edges * args.outputs : args.inputs;
  with_columns<S>(backward ? args.inputs : args.outputs, [&](auto registers) {
    constexpr int64_t kColumns = registers.value * kLanes<S>;
    for (int64_t k = begin; k < end; ++k) {
      const S* const w =
          static_cast<const S*>(weights[k / args.outputs]) + k % args.outputs * args.inputs;
      for (int64_t c = 0; c < args.inputs; ++c) {
        const int64_t row = backward ? k : c;
        const int64_t column = backward ? c : k;
        packed[(column / kColumns * depth + row) * kColumns + column % kColumns] = w[c];
      }
    }
  });
}

/// sums[inputs][edges * outputs]
template <class S>
void pointwise_backward_weight(const ConvolveArgs& args, const Group<const void*>& grads,
                               const S* x, S* sums, int64_t begin, int64_t end) {
  const int64_t rows = args.inputs;
  const int64_t columns = grads.width();
  std::fill(sums, sums + args.kernel_values(), S(0));
  with_columns<S>(args.outputs, [&](auto registers) {
    constexpr int V = registers.value;
    for (int64_t first = begin; first < end; first += kPixels) {
      const int64_t n = std::min(kPixels, end - first);
      each_map(grads, [&](const void* grad, int64_t column) {
        const S* const g = static_cast<const S*>(grad) + first * args.outputs;
        for (int64_t k = 0; k < args.outputs; k += V * kLanes<S>) {
          for (int64_t r = 0; r < rows; r += kRows<V>) {
            multiply<S, V>(x + first * rows + r, 1, rows, g + k, args.outputs, n,
                           sums + r * columns + column + k, columns, true);
          }
        }
      });
    }
  });
}

template <class S>
void pointwise_merge_weight(const ConvolveArgs& args, const S* sums, int64_t chunks,
                            void* const* grads, int64_t begin, int64_t end) {
  const int64_t columns = args.edges * args.outputs;
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t k = 0; k < columns; ++k) {
      S sum(0);
      for (int64_t i = 0; i < chunks; ++i) sum += sums[i * args.kernel_values() + c * columns + k];
      static_cast<S*>(grads[k / args.outputs])[k % args.outputs * args.inputs + c] = sum;
    }
  }
}

// ---- either ----

template <class F>
void with_sum_type(DType dtype, const F& f) {
  return dtype == DType::kFloat64 ? f(double{}) : f(float{});
}

template <class P, class Q>
void convolve(const ConvolveArgs& args, const Group<P>& inputs, const void* packed,
              const Group<Q>& outputs, int64_t begin, int64_t end) {
  with_sum_type(args.dtype, [&](auto type) {
    using S = decltype(type);
    if (args.kernel == 3) {
      winograd<S>(args, inputs, packed, outputs, begin, end);
    } else {
      pointwise<S>(inputs, packed, outputs, begin, end);
    }
  });
}

}  // namespace

void convolve_pack(const ConvolveArgs& args, const void* const* weights, bool backward,
                   void* packed, int64_t begin, int64_t end) {
  with_sum_type(args.dtype, [&](auto type) {
    using S = decltype(type);
    const auto function = args.kernel == 3 ? winograd_pack<S> : pointwise_pack<S>;
    function(args, weights, backward, static_cast<S*>(packed), begin, end);
  });
}

void convolve_forward(const ConvolveArgs& args, const void* x, const void* packed, void* const* y,
                      int64_t begin, int64_t end) {
  convolve(args, Group<const void*>{&x, 1, args.inputs}, packed,
           Group<void*>{y, args.edges, args.outputs}, begin, end);
}

void convolve_backward_map(const ConvolveArgs& args, const void* const* grads, const void* packed,
                           void* grad_map, int64_t begin, int64_t end) {
  convolve(args, Group<const void*>{grads, args.edges, args.outputs}, packed,
           Group<void*>{&grad_map, 1, args.inputs}, begin, end);
}

void convolve_backward_weight(const ConvolveArgs& args, const void* const* grads, const void* x,
                              void* sums, int64_t begin, int64_t end) {
  with_sum_type(args.dtype, [&](auto type) {
    using S = decltype(type);
    const Group<const void*> group{grads, args.edges, args.outputs};
    if (args.kernel == 3) {
      winograd_backward_weight(args, group, {&x, 1, args.inputs}, static_cast<S*>(sums), begin,
                               end);
    } else {
      pointwise_backward_weight(args, group, static_cast<const S*>(x), static_cast<S*>(sums), begin,
                                end);
    }
  });
}

void convolve_merge_weight(const ConvolveArgs& args, const void* sums, int64_t chunks,
                           void* const* grad_weights, int64_t begin, int64_t end) {
  with_sum_type(args.dtype, [&](auto type) {
    using S = decltype(type);
    const auto function = args.kernel == 3 ? winograd_merge_weight<S> : pointwise_merge_weight<S>;
    function(args, static_cast<const S*>(sums), chunks, grad_weights, begin, end);
  });
}

}  // namespace SNSOFTMAX_CAPABILITY

#ifdef SNSOFTMAX_DEFINE_DISPATCH
void convolve_pack_cpu(const ConvolveArgs& args, const void* const* weights, bool backward,
                       void* packed, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(convolve_pack, args, weights, backward, packed, begin, end);
}

void convolve_forward_cpu(const ConvolveArgs& args, const void* x, const void* packed,
                          void* const* y, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(convolve_forward, args, x, packed, y, begin, end);
}

void convolve_backward_map_cpu(const ConvolveArgs& args, const void* const* grads,
                               const void* packed, void* grad_map, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(convolve_backward_map, args, grads, packed, grad_map, begin, end);
}

void convolve_backward_weight_cpu(const ConvolveArgs& args, const void* const* grads, const void* x,
                                  void* sums, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(convolve_backward_weight, args, grads, x, sums, begin, end);
}

void convolve_merge_weight_cpu(const ConvolveArgs& args, const void* sums, int64_t chunks,
                               void* const* grad_weights, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(convolve_merge_weight, args, sums, chunks, grad_weights, begin, end);
}
#endif

}  // namespace snsoftmax
