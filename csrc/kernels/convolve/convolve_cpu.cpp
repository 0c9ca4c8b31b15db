// Tiles are taken in blocks. A block's transformed tiles are a matrix [tiles, channels] a point,
// which stay in the second-level cache while each is multiplied by its [inputs, outputs] matrix.
#include "convolve/convolve.h"

#include <algorithm>
#include <type_traits>

#include "common/capability.h"
#include "common/vec.h"
#include "convolve/convolve_pack_cpu.h"
#include "convolve/convolve_pointwise_cpu.h"
#include "convolve/convolve_products_cpu.h"
#include "convolve/convolve_strided_cpu.h"
#include "convolve/convolve_tiles_cpu.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(
    void convolve_pack(const ConvolveArgs&, const void* const*, bool, void*, int64_t, int64_t);
    void convolve_forward(const ConvolveArgs&, const void*, const void*, void* const*, int64_t,
                          int64_t, const ConvolveAhead&);
    void convolve_backward_map(const ConvolveArgs&, const void* const*, const void*, void*, int64_t,
                               int64_t, const ConvolveAhead&);
    void convolve_backward_weight(const ConvolveArgs&, const void* const*, const void*, void*,
                                  int64_t, int64_t, const ConvolveAhead&);
    void convolve_merge_weight(const ConvolveArgs&, const void*, int64_t, void* const*, int64_t,
                               int64_t))

namespace SNSOFTMAX_CAPABILITY {
namespace {

constexpr int64_t kBlock = 32;  // tiles
static_assert(kBlock % kRows<1> == 0);

/// Tiles whose products are summed at a time for the gradients of kernels: as many bytes of each
/// type.
template <class T>
constexpr int64_t kSummedTiles = 32 * kPair<T>;

/// Adds the products of tiles from r with V registers of the columns of point's matrix `b`.
template <class T, int V, int R>
SNSOFTMAX_INLINE void add_row_products(Sums<T, V, R>& sums, const Transformed<T, false>& tiles,
                                       int point, int64_t r, const T* b) {
  constexpr int64_t kColumns = V * kLanes<T>;
  sums.add(tiles.data + point * tiles.step() + r * tiles.width, tiles.width, kPair<T>, b,
           kColumns * kPair<T>, tiles.width / kPair<T>);
}

/// The products of n tiles with all columns, c[point][tile][column]. Calls before(i, of), i < of,
/// from time to time.
template <class T, int V, class F>
void multiply(const Transformed<T, false>& tiles, const T* packed, int64_t columns, int64_t n,
              Scalar<T>* c, int64_t c_step, const F& before) {
  for (int point = 0; point < kPoints<T>; ++point) {
    before(point, kPoints<T>);
    const T* const b = packed + point * tiles.width * columns;
    for (int64_t k = 0; k < columns; k += V * kLanes<T>) {
      for (int64_t r = 0; r < n; r += kRows<V>) {
        Sums<T, V> sums;
        add_row_products(sums, tiles, point, r, b + k * tiles.width);
        sums.put(c + point * c_step + r * columns + k, columns);
      }
    }
  }
}

/// A^T m of these products m, c[4 * i + j][tile][column]. The last four of the kernels' points are
/// packed with the other sign.
template <class T, int V, class F>
void multiply_and_fold(const Transformed<T, false>& tiles, const T* packed, int64_t columns,
                       int64_t n, Scalar<T>* c, int64_t c_step, const F& before) {
  constexpr int R = kRows<V> / 2;
  constexpr int64_t kColumns = V * kLanes<T>;
  const int64_t rows = (n + R - 1) / R;
  for (int j = 0; j < 4; ++j) {
    for (int64_t k = 0; k < columns; k += kColumns) {
      for (int64_t r = 0; r < n; r += R) {
        before((j * columns + k) / kColumns * rows + r / R, 4 * columns / kColumns * rows);
        const auto add = [&](Sums<T, V, R>& sums, int i) __attribute__((always_inline)) {
          add_row_products(sums, tiles, 4 * i + j, r,
                           packed + ((4 * i + j) * columns + k) * tiles.width);
        };
        Sums<T, V, R> upper, lower;
        add(upper, 1);
        add(lower, 2);
        add_and_subtract(upper, lower);
        add(upper, 0);
        upper.put(c + j * c_step + r * columns + k, columns);
        add(lower, 3);
        lower.put(c + (4 + j) * c_step + r * columns + k, columns);
      }
    }
  }
}

/// packed[point] is laid out by packed_index.
template <class T, class P, class Q>
void winograd(const ConvolveArgs& args, const Group<P>& inputs, const T* packed,
              const Group<Q>& outputs, int64_t begin, int64_t end, const ConvolveAhead& ahead) {
  const int64_t depth = inputs.width();
  const int64_t columns = outputs.width();
  const int64_t step = matrix_step(kBlock, columns);
  const auto buffer = scratch<T>(kPoints<T> * matrix_step(kBlock, depth));
  const auto products = scratch<Scalar<T>>((kFolded<T> ? 8 : kPoints<T>)*step);
  const Transformed<T, false> transformed{buffer.get(), kBlock, depth};
  with_columns<T>(columns, [&](auto registers) {
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t n = std::min(kBlock, end - first);
      transform_inputs(args, inputs, first, n, transformed);
      const auto before = [&](int64_t i, int64_t of) __attribute__((always_inline)) {
        ask_for<T>(args, outputs, first, n, i, of);
        ask_for<T>(args, inputs, first + n, std::min(kBlock, end - first - n), i, of);
        ask_for(ahead, (first - begin) * of + n * i, (first - begin) * of + n * (i + 1),
                (end - begin) * of);
      };
      if constexpr (kFolded<T>) {
        multiply_and_fold<T, registers.value>(transformed, packed, columns, n, products.get(), step,
                                              before);
      } else {
        multiply<T, registers.value>(transformed, packed, columns, n, products.get(), step, before);
      }
      transform_outputs<T>(args, outputs, first, n, products.get(), step);
    }
  });
}

template <class T>
void winograd_pack(const ConvolveArgs& args, const void* const* weights, bool backward, T* packed,
                   int64_t begin, int64_t end) {
  using W = Winograd<Vector<T>, kSide<T>>;
  constexpr int kN = kSpan<T>, kP = kPair<T>;
  const int64_t depth = backward ? args.edges * args.outputs : args.inputs;
  const int64_t columns = backward ? args.inputs : args.edges * args.outputs;
  with_columns<T>(columns, [&](auto registers) {
    constexpr int64_t kColumns = registers.value * kLanes<T>;
    each_part<T, 9>(args, weights, backward, begin, end,
                    [&](int64_t row, int64_t column, const auto& tap) {
                      Vector<T> half[kP][kN][3];
                      for (int p = 0; p < kP; ++p) {
                        for (int j = 0; j < 3; ++j) {
                          Vector<T> w[3], u[kN];
                          for (int i = 0; i < 3; ++i)
                            w[i] = tap(p, backward ? 8 - 3 * i - j : 3 * i + j);
                          W::kernel(w, u);
                          for (int i = 0; i < kN; ++i) half[p][i][j] = u[i];
                        }
                      }
                      for (int i = 0; i < kN; ++i) {
                        Vector<T> u[kP][kN];
                        for (int p = 0; p < kP; ++p) W::kernel(half[p][i], u[p]);
                        for (int j = 0; j < kN; ++j) {
                          Vector<T> numbers[kP];
                          for (int p = 0; p < kP; ++p)
                            numbers[p] = kFolded<T> && i == 3 ? -u[p][j] : u[p][j];
                          put_packed<T>(packed + (kN * i + j) * depth * columns, depth, kColumns,
                                        row, column, numbers);
                        }
                      }
                    });
  });
}

template <class T>
void winograd_backward_weight(const ConvolveArgs& args, const Group<const void*>& grads,
                              const Group<const void*>& x, Scalar<T>* sums, int64_t begin,
                              int64_t end, const ConvolveAhead& ahead) {
  constexpr int64_t kTiles = kSummedTiles<T>;
  const int64_t rows = x.width();
  const int64_t columns = grads.width();
  const auto from_x = scratch<T>(kPoints<T> * matrix_step(kTiles, rows));
  const auto from_grads = scratch<T>(kPoints<T> * matrix_step(kTiles, columns));
  const Transformed<T, true> inputs{from_x.get(), kTiles, rows};
  const Transformed<T, true> gradients{from_grads.get(), kTiles, columns};
  with_columns<T>(columns, [&](auto registers) {
    for (int64_t first = begin; first < end; first += kTiles) {
      const int64_t n = std::min(kTiles, end - first);
      transform_inputs(args, x, first, n, inputs);
      transform_gradients(args, grads, first, n, gradients);
      const int64_t more = std::min(kTiles, end - first - n);
      for (int point = 0; point < kPoints<T>; ++point) {
        ask_for<T>(args, x, first + n, more, point, kPoints<T>);
        ask_for<T>(args, grads, first + n, more, point, kPoints<T>);
        ask_for(ahead, (first - begin) * kPoints<T> + n * point,
                (first - begin) * kPoints<T> + n * (point + 1), (end - begin) * kPoints<T>);
        add_outer_products<T, registers.value>(inputs.data + point * inputs.step(), rows,
                                               gradients.data + point * gradients.step(), columns,
                                               columns, n, sums + point * rows * columns, columns);
      }
    }
  });
}

template <class T>
void winograd_merge_weight(const ConvolveArgs& args, const Scalar<T>* sums, int64_t chunks,
                           void* const* grads, int64_t begin, int64_t end) {
  using S = Scalar<T>;
  using V = Vector<T>;
  using W = Winograd<V, kSide<T>>;
  constexpr int kN = kSpan<T>;
  const int64_t columns = args.edges * args.outputs;
  const int64_t point = args.inputs * columns;
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t k = 0; k < columns; k += kLanes<T>) {
      V half[3][kN];
      for (int j = 0; j < kN; ++j) {
        V totals[kN], w[3];
        for (int i = 0; i < kN; ++i) {
          totals[i] = V{};
          for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            totals[i] +=
                load(sums + chunk * args.kernel_values() + (kN * i + j) * point + c * columns + k);
          }
        }
        W::kernel_gradient(totals, w);
        for (int i = 0; i < 3; ++i) half[i][j] = w[i];
      }
      S* const to =
          static_cast<S*>(grads[k / args.outputs]) + k % args.outputs * 9 * args.inputs + c;
      for (int i = 0; i < 3; ++i) {
        V w[3];
        W::kernel_gradient(half[i], w);
        for (int j = 0; j < 3; ++j) {
          for (int lane = 0; lane < kLanes<T>; ++lane) {
            to[(lane * 9 + 3 * i + j) * args.inputs] = w[j][lane];
          }
        }
      }
    }
  }
}

/// f(T{}), T being the type of the maps
template <class F>
void with_maps(DType dtype, const F& f) {
  with_type<void, BFloat16>(dtype, f);
}

template <class P, class Q>
void convolve(const ConvolveArgs& args, const Group<P>& inputs, const void* packed,
              const Group<Q>& outputs, int64_t begin, int64_t end, const ConvolveAhead& ahead) {
  with_maps(args.dtype, [&](auto type) {
    using T = decltype(type);
    const T* const matrices = static_cast<const T*>(packed);
    if (args.kernel == 3) {
      winograd<T>(args, inputs, matrices, outputs, begin, end, ahead);
    } else {
      const auto function = args.adds ? pointwise<T, true, P, Q> : pointwise<T, false, P, Q>;
      function(inputs, matrices, outputs, begin, end);
    }
  });
}

}  // namespace

void convolve_pack(const ConvolveArgs& args, const void* const* weights, bool backward,
                   void* packed, int64_t begin, int64_t end) {
  with_maps(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto function = args.stride == 2   ? strided_pack<T>
                          : args.kernel == 3 ? winograd_pack<T>
                                             : pointwise_pack<T>;
    function(args, weights, backward, static_cast<T*>(packed), begin, end);
  });
}

void convolve_forward(const ConvolveArgs& args, const void* x, const void* packed, void* const* y,
                      int64_t begin, int64_t end, const ConvolveAhead& ahead) {
  const Group<void*> outputs{y, args.edges, args.outputs};
  if (args.stride == 2) {
    return with_maps(args.dtype, [&](auto type) {
      using T = decltype(type);
      strided_forward(args, static_cast<const T*>(x), static_cast<const T*>(packed), outputs, begin,
                      end);
    });
  }
  convolve(args, Group<const void*>{&x, 1, args.inputs}, packed, outputs, begin, end, ahead);
}

void convolve_backward_map(const ConvolveArgs& args, const void* const* grads, const void* packed,
                           void* grad_map, int64_t begin, int64_t end, const ConvolveAhead& ahead) {
  const Group<const void*> group{grads, args.edges, args.outputs};
  if (args.stride == 2) {
    return with_maps(args.dtype, [&](auto type) {
      using T = decltype(type);
      strided_backward_map(args, group, static_cast<const T*>(packed), static_cast<T*>(grad_map),
                           begin, end);
    });
  }
  convolve(args, group, packed, Group<void*>{&grad_map, 1, args.inputs}, begin, end, ahead);
}

void convolve_backward_weight(const ConvolveArgs& args, const void* const* grads, const void* x,
                              void* sums, int64_t begin, int64_t end, const ConvolveAhead& ahead) {
  with_maps(args.dtype, [&](auto type) {
    using T = decltype(type);
    auto* const to = static_cast<Scalar<T>*>(sums);
    const Group<const void*> group{grads, args.edges, args.outputs};
    if (args.stride == 2) {
      strided_backward_weight<T>(args, group, static_cast<const T*>(x), to, begin, end);
    } else if (args.kernel == 3) {
      winograd_backward_weight<T>(args, group, {&x, 1, args.inputs}, to, begin, end, ahead);
    } else {
      pointwise_backward_weight<T>(args, group, static_cast<const T*>(x), to, begin, end);
    }
  });
}

void convolve_merge_weight(const ConvolveArgs& args, const void* sums, int64_t chunks,
                           void* const* grad_weights, int64_t begin, int64_t end) {
  with_maps(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto function = args.stride == 2   ? strided_merge_weight<T>
                          : args.kernel == 3 ? winograd_merge_weight<T>
                                             : pointwise_merge_weight<T>;
    function(args, static_cast<const Scalar<T>*>(sums), chunks, grad_weights, begin, end);
  });
}

}  // namespace SNSOFTMAX_CAPABILITY

#ifdef SNSOFTMAX_DEFINE_DISPATCH
void convolve_pack_cpu(const ConvolveArgs& args, const void* const* weights, bool backward,
                       void* packed, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(convolve_pack, args, weights, backward, packed, begin, end);
}

void convolve_forward_cpu(const ConvolveArgs& args, const void* x, const void* packed,
                          void* const* y, int64_t begin, int64_t end, const ConvolveAhead& ahead) {
  SNSOFTMAX_DISPATCH(convolve_forward, args, x, packed, y, begin, end, ahead);
}

void convolve_backward_map_cpu(const ConvolveArgs& args, const void* const* grads,
                               const void* packed, void* grad_map, int64_t begin, int64_t end,
                               const ConvolveAhead& ahead) {
  SNSOFTMAX_DISPATCH(convolve_backward_map, args, grads, packed, grad_map, begin, end, ahead);
}

void convolve_backward_weight_cpu(const ConvolveArgs& args, const void* const* grads, const void* x,
                                  void* sums, int64_t begin, int64_t end,
                                  const ConvolveAhead& ahead) {
  SNSOFTMAX_DISPATCH(convolve_backward_weight, args, grads, x, sums, begin, end, ahead);
}

void convolve_merge_weight_cpu(const ConvolveArgs& args, const void* sums, int64_t chunks,
                               void* const* grad_weights, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(convolve_merge_weight, args, sums, chunks, grad_weights, begin, end);
}
#endif

}  // namespace snsoftmax
