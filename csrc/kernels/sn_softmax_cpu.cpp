// sn-softmax on CPU. Two shapes of loop, chosen by where a row lies and how long it is:
//   lanes are rows      short rows, and rows along a dimension that is not the last: vector j
//                       holds element j of as many rows as there are lanes
//   lanes are elements  longer contiguous rows, one at a time
#include <algorithm>
#include <cmath>
#include <memory>

#include "capability.h"
#include "sn_softmax.h"
#include "sn_softmax_math.h"
#include "vec.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(void forward(const SNSoftmaxArgs&, const void*, void*, void*,
                                              int64_t, int64_t);
                                 void backward(const SNSoftmaxArgs&, const void*, const void*,
                                               const void*, void*, int64_t, int64_t))

namespace SNSOFTMAX_CAPABILITY {

namespace {

template <class T>
using Scalar = typename Op<T>::scalar;
template <class T>
using Vector = typename Op<T>::vector;

/// Contiguous rows up to this length are transposed and handled a vector of rows at a time.
constexpr int64_t kShortRow = 32;

// ------------------------------------------------------------ temperatures

template <class S>
S value_of(const Temperature& t, int64_t row) {
  return t.data ? static_cast<const S*>(t.data)[row * t.stride] : static_cast<S>(t.value);
}

template <class S>
Inverses<S> row_inverses(const SNSoftmaxArgs& args, int64_t row) {
  const S t = value_of<S>(args.temperature, row);
  switch (args.smooth) {
    case Smooth::kNone:
      return {inverse_temperature(t), S(0)};
    case Smooth::kScaled:
      return {inverse_temperature(t), inverse_temperature(static_cast<S>(args.scale) * t)};
    case Smooth::kAbsolute:
      break;
  }
  return {inverse_temperature(t), inverse_temperature(value_of<S>(args.smooth_temperature, row))};
}

bool one_for_all(const SNSoftmaxArgs& args) {
  return args.temperature.stride == 0 && args.smooth_temperature.stride == 0;
}

/// Of `count` rows from `row` on, one a lane.
template <class T>
Inverses<Vector<T>> lane_inverses(const SNSoftmaxArgs& args, int64_t row, int64_t count) {
  Inverses<Vector<T>> lanes{};
  for (int64_t i = 0; i < count; ++i) {
    const Inverses<Scalar<T>> one = row_inverses<Scalar<T>>(args, row + i);
    lanes.t[i] = one.t;
    lanes.st[i] = one.st;
  }
  return lanes;
}

// ------------------------------------------------------------ lanes are rows

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
      if (count == kLane) {
#pragma GCC unroll 16
        for (int64_t j = 0; j < kSize; ++j) column[j] = load(rows + j * kLane);
#pragma GCC unroll 4
        for (int64_t stage = kSize; stage > 1; stage /= 2) {
          Vector<T> next[kSize];
#pragma GCC unroll 8
          for (int64_t i = 0; i < kSize / 2; ++i) {
            deinterleave(column[2 * i], column[2 * i + 1]);
            next[i] = column[2 * i];
            next[i + kSize / 2] = column[2 * i + 1];
          }
#pragma GCC unroll 16
          for (int64_t i = 0; i < kSize; ++i) column[i] = next[i];
        }
        return;
      }
    }
    Scalar<T> lanes[kCapacity][kLane] = {};
    Scalar<T> row[kCapacity + kLane];
    for (int64_t r = 0; r < count; ++r) {
      convert(rows + r * size, row, size);
      for (int64_t j = 0; j < size; ++j) lanes[j][r] = row[j];
    }
    for (int64_t j = 0; j < size; ++j) column[j] = load(lanes[j]);
  }

  SNSOFTMAX_INLINE void write(T* rows, int64_t size, int64_t count) {
    if constexpr (kSize > 0) {
      if (count == kLane) {
#pragma GCC unroll 4
        for (int64_t stage = kSize; stage > 1; stage /= 2) {
          Vector<T> next[kSize];
#pragma GCC unroll 8
          for (int64_t i = 0; i < kSize / 2; ++i) {
            interleave(column[i], column[i + kSize / 2]);
            next[2 * i] = column[i];
            next[2 * i + 1] = column[i + kSize / 2];
          }
#pragma GCC unroll 16
          for (int64_t i = 0; i < kSize; ++i) column[i] = next[i];
        }
#pragma GCC unroll 16
        for (int64_t j = 0; j < kSize; ++j) store(rows + j * kLane, column[j]);
        return;
      }
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

// ------------------------------------------------------------ lanes are elements

/// Calls f(offset, lanes in use) for each vector of a row.
template <class T, class F>
SNSOFTMAX_INLINE void each_vector(int64_t size, F f) {
  int64_t j = 0;
  for (; j + kLanes<T> <= size; j += kLanes<T>) f(j, kLanes<T>);
  if (j < size) f(j, size - j);
}

template <class T>
SNSOFTMAX_INLINE Vector<T> get(const T* p, int64_t n, Scalar<T> fill) {
  return n == kLanes<T> ? load(p) : load_first(p, n, fill);
}
template <class T>
SNSOFTMAX_INLINE void put(T* p, int64_t n, Vector<T> v) {
  if (n == kLanes<T>) {
    store(p, v);
  } else {
    store_first(p, n, v);
  }
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

template <class T>
void row_forward(const T* a, T* p, int64_t size, Scalar<T> inverse_t, Scalar<T>* row_entropy,
                 Scalar<T>* e) {
  using S = Scalar<T>;
  using V = Vector<T>;
  const S top = row_max(a, size);
  auto sums = Sums<V>::zero();
  each_vector<T>(size, [&](int64_t j, int64_t n) {
    const V z = octaves(get(a + j, n, S(-INFINITY)), top, inverse_t);
    const V power = exp2_nonpositive(z);
    sums.add(z, power, V{});
    store(e + j, power);
  });
  const Sums<S> total = across(sums);
  const S inverse_power = S(1) / total.power;
  each_vector<T>(size, [&](int64_t j, int64_t n) { put(p + j, n, load(e + j) * inverse_power); });
  if (row_entropy) *row_entropy = entropy(std::log2(total.power), inverse_power, total.moment);
}

/// kTilt: whether a gradient of the entropy came in; without it nothing needs z a second time.
template <class T, bool kSmooth, bool kTilt>
void row_backward(const T* g, const T* a, T* out, int64_t size, const Inverses<Scalar<T>>& inverse,
                  Scalar<T> tilt, Scalar<T>* e, Scalar<T>* q) {
  using S = Scalar<T>;
  using V = Vector<T>;
  const S top = row_max(a, size);
  auto sharp = Sums<V>::zero(), smooth = Sums<V>::zero();
  each_vector<T>(size, [&](int64_t j, int64_t n) {
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
  each_vector<T>(size, [&](int64_t j, int64_t n) {
    const V gj = g ? get(g + j, n, S(0)) : V{};
    V z{};
    if constexpr (kTilt) z = octaves(get(a + j, n, S(-INFINITY)), top, inverse.t);
    const S slant = kTilt ? tilt : S(0);
    if constexpr (kSmooth) {
      put(out + j, n, combine(z, load(e + j), load(q + j), gj, slant, at_t, at_st));
    } else {
      put(out + j, n, combine(z, load(e + j), gj, slant, at_t));
    }
  });
}

// ------------------------------------------------------------ walking the rows

/// Per-thread memory for `vectors` vectors, kept between calls.
template <class S>
S* scratch(int64_t vectors) {
  thread_local std::unique_ptr<char[]> memory;
  thread_local int64_t capacity = 0;
  if (vectors > capacity) {
    memory.reset(new char[static_cast<size_t>((vectors + 1) * kVectorBytes)]);
    capacity = vectors;
  }
  void* start = memory.get();
  size_t space = static_cast<size_t>((capacity + 1) * kVectorBytes);
  return static_cast<S*>(std::align(kVectorBytes, kVectorBytes, start, space));
}

/// f(row, offset of its first element, rows) for blocks of up to a vector of rows, one a lane.
template <class T, class F>
SNSOFTMAX_INLINE void each_block(const SNSoftmaxArgs& args, int64_t begin, int64_t end, F f) {
  for (int64_t row = begin; row < end;) {
    const int64_t o = row / args.inner, i = row % args.inner;
    // Rows of one `o` lie side by side where inner > 1, one after another where it is 1.
    const int64_t left = args.inner > 1 ? std::min(end - row, args.inner - i) : end - row;
    const int64_t count = std::min<int64_t>(left, kLanes<T>);
    f(row, o * args.size * args.inner + i, count);
    row += count;
  }
}

/// The inverses of the block's rows, computed anew only where rows differ.
template <class T>
struct LaneInverses {
  const SNSoftmaxArgs& args;
  const bool shared;
  Inverses<Vector<T>> value;

  explicit LaneInverses(const SNSoftmaxArgs& a) : args(a), shared(one_for_all(a)), value{} {
    if (shared) value = lane_inverses<T>(a, 0, 1);
    value = {broadcast<Vector<T>>(value.t[0]), broadcast<Vector<T>>(value.st[0])};
  }
  SNSOFTMAX_INLINE const Inverses<Vector<T>>& of(int64_t row, int64_t count) {
    if (!shared) value = lane_inverses<T>(args, row, count);
    return value;
  }
};

template <class T, int64_t kSize>
void forward_short(const SNSoftmaxArgs& args, const T* logits, T* probs, Scalar<T>* entropies,
                   int64_t begin, int64_t end) {
  const int64_t size = kSize ? kSize : args.size;
  LaneInverses<T> inverses(args);
  each_block<T>(args, begin, end, [&](int64_t row, int64_t offset, int64_t count) {
    Block<T, kSize> a, p;
    a.read(logits + offset, size, count);
    lanes_forward<T>(a, p, p, size, inverses.of(row, count).t,
                     entropies ? entropies + row : nullptr, count);
    p.write(probs + offset, size, count);
  });
}

template <class T, int64_t kSize, bool kSmooth>
void backward_short(const SNSoftmaxArgs& args, const T* grad, const Scalar<T>* grad_entropy,
                    const T* logits, T* out, int64_t begin, int64_t end) {
  const int64_t size = kSize ? kSize : args.size;
  LaneInverses<T> inverses(args);
  each_block<T>(args, begin, end, [&](int64_t row, int64_t offset, int64_t count) {
    Block<T, kSize> a, g, e, q;
    a.read(logits + offset, size, count);
    const auto& inverse = inverses.of(row, count);
    const Vector<T> tilt =
        grad_entropy ? load_first(grad_entropy + row, count, 0) * Constants<Scalar<T>>::ln2
                     : Vector<T>{};
    if (grad) {
      g.read(grad + offset, size, count);
      lanes_backward<T, kSmooth>(g, a, e, q, e, size, inverse, tilt);
    } else {
      lanes_backward<T, kSmooth>(Zero<T>{}, a, e, q, e, size, inverse, tilt);
    }
    e.write(out + offset, size, count);
  });
}

template <class T>
void forward_strided(const SNSoftmaxArgs& args, const T* logits, T* probs, Scalar<T>* entropies,
                     int64_t begin, int64_t end) {
  LaneInverses<T> inverses(args);
  Strided<Scalar<T>> e{scratch<Scalar<T>>(args.size), kLanes<T>, kLanes<T>};
  each_block<T>(args, begin, end, [&](int64_t row, int64_t offset, int64_t count) {
    const Strided<const T> a{logits + offset, args.inner, count};
    Strided<T> p{probs + offset, args.inner, count};
    lanes_forward<T>(a, e, p, args.size, inverses.of(row, count).t,
                     entropies ? entropies + row : nullptr, count);
  });
}

template <class T, bool kSmooth>
void backward_strided(const SNSoftmaxArgs& args, const T* grad, const Scalar<T>* grad_entropy,
                      const T* logits, T* grad_logits, int64_t begin, int64_t end) {
  LaneInverses<T> inverses(args);
  Scalar<T>* const memory = scratch<Scalar<T>>(2 * args.size);
  Strided<Scalar<T>> e{memory, kLanes<T>, kLanes<T>};
  Strided<Scalar<T>> q{memory + args.size * kLanes<T>, kLanes<T>, kLanes<T>};
  each_block<T>(args, begin, end, [&](int64_t row, int64_t offset, int64_t count) {
    const Strided<const T> a{logits + offset, args.inner, count};
    Strided<T> out{grad_logits + offset, args.inner, count};
    const auto& inverse = inverses.of(row, count);
    const Vector<T> tilt =
        grad_entropy ? load_first(grad_entropy + row, count, 0) * Constants<Scalar<T>>::ln2
                     : Vector<T>{};
    if (grad) {
      const Strided<const T> g{grad + offset, args.inner, count};
      lanes_backward<T, kSmooth>(g, a, e, q, out, args.size, inverse, tilt);
    } else {
      lanes_backward<T, kSmooth>(Zero<T>{}, a, e, q, out, args.size, inverse, tilt);
    }
  });
}

template <class T>
void forward_long(const SNSoftmaxArgs& args, const T* logits, T* probs, Scalar<T>* entropies,
                  int64_t begin, int64_t end) {
  Scalar<T>* const e = scratch<Scalar<T>>(args.size / kLanes<T> + 1);
  for (int64_t row = begin; row < end; ++row) {
    row_forward(logits + row * args.size, probs + row * args.size, args.size,
                row_inverses<Scalar<T>>(args, row).t, entropies ? entropies + row : nullptr, e);
  }
}

template <class T, bool kSmooth, bool kTilt>
void backward_long(const SNSoftmaxArgs& args, const T* grad, const Scalar<T>* grad_entropy,
                   const T* logits, T* out, int64_t begin, int64_t end) {
  const int64_t vectors = args.size / kLanes<T> + 1;
  Scalar<T>* const e = scratch<Scalar<T>>(2 * vectors);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t offset = row * args.size;
    const Scalar<T> tilt = kTilt ? grad_entropy[row] * Constants<Scalar<T>>::ln2 : 0;
    row_backward<T, kSmooth, kTilt>(grad ? grad + offset : nullptr, logits + offset, out + offset,
                                    args.size, row_inverses<Scalar<T>>(args, row), tilt, e,
                                    e + vectors * kLanes<T>);
  }
}

/// f(std::integral_constant) with the compile-time length of a short row: 0 where it has none.
template <class F>
void with_size(int64_t size, F f) {
  switch (size) {
    case 2:
      return f(std::integral_constant<int64_t, 2>{});
    case 4:
      return f(std::integral_constant<int64_t, 4>{});
    case 8:
      return f(std::integral_constant<int64_t, 8>{});
    case 16:
      return f(std::integral_constant<int64_t, 16>{});
    default:
      return f(std::integral_constant<int64_t, 0>{});
  }
}

template <class F>
void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kFloat16:
      return f(Half{});
    case DType::kBFloat16:
      return f(BFloat16{});
  }
}

}  // namespace

void forward(const SNSoftmaxArgs& args, const void* logits, void* probs, void* entropies,
             int64_t begin, int64_t end) {
  with_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto* a = static_cast<const T*>(logits);
    auto* p = static_cast<T*>(probs);
    auto* h = static_cast<Scalar<T>*>(entropies);
    if (args.inner > 1) {
      forward_strided<T>(args, a, p, h, begin, end);
    } else if (args.size > kShortRow) {
      forward_long<T>(args, a, p, h, begin, end);
    } else {
      with_size(args.size, [&](auto size) {
        forward_short<T, decltype(size)::value>(args, a, p, h, begin, end);
      });
    }
  });
}

void backward(const SNSoftmaxArgs& args, const void* grad, const void* grad_entropy,
              const void* logits, void* grad_logits, int64_t begin, int64_t end) {
  with_type(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto* g = static_cast<const T*>(grad);
    const auto* gh = static_cast<const Scalar<T>*>(grad_entropy);
    const auto* a = static_cast<const T*>(logits);
    auto* out = static_cast<T*>(grad_logits);
    const auto run = [&](auto smooth) {
      constexpr bool kSmooth = decltype(smooth)::value;
      if (args.inner > 1) {
        backward_strided<T, kSmooth>(args, g, gh, a, out, begin, end);
      } else if (args.size > kShortRow) {
        const auto rows = gh ? backward_long<T, kSmooth, true> : backward_long<T, kSmooth, false>;
        rows(args, g, gh, a, out, begin, end);
      } else {
        with_size(args.size, [&](auto size) {
          backward_short<T, decltype(size)::value, kSmooth>(args, g, gh, a, out, begin, end);
        });
      }
    };
    if (args.smooth == Smooth::kNone) {
      run(std::false_type{});
    } else {
      run(std::true_type{});
    }
  });
}

}  // namespace SNSOFTMAX_CAPABILITY

#if defined(SNSOFTMAX_DEFINE_DISPATCH)
void sn_softmax_forward_cpu(const SNSoftmaxArgs& args, const void* logits, void* probs,
                            void* entropy, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(forward, args, logits, probs, entropy, begin, end);
}

void sn_softmax_backward_cpu(const SNSoftmaxArgs& args, const void* grad, const void* grad_entropy,
                             const void* logits, void* grad_logits, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(backward, args, grad, grad_entropy, logits, grad_logits, begin, end);
}
#endif

}  // namespace snsoftmax
