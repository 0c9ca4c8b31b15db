// sn-softmax on CPU. Two shapes of loop, chosen by where a row lies and how long it is:
//   lanes are rows      short rows, and rows along a dimension that is not the last: vector j
//                       holds element j of as many rows as there are lanes
//   lanes are elements  longer contiguous rows, one at a time
#include <algorithm>
#include <cmath>
#include <memory>

#include "common/capability.h"
#include "sn_softmax/sn_softmax.h"
#include "sn_softmax/sn_softmax_lanes_cpu.h"
#include "sn_softmax/sn_softmax_row_cpu.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(void forward(const SNSoftmaxArgs&, const void*, void*, void*,
                                              int64_t, int64_t);
                                 void backward(const SNSoftmaxArgs&, const void*, const void*,
                                               const void*, void*, int64_t, int64_t))

namespace SNSOFTMAX_CAPABILITY {

namespace {

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
    p.write(probs + offset, size, count, args.past_caches);
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
    e.write(out + offset, size, count, args.past_caches);
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

/// Of scratch for a row: a whole vector can be read from any of its elements.
template <class T>
int64_t vectors_of(int64_t size) {
  return size / kLanes<T> + 2;
}

template <class T, bool kEntropy>
void forward_long(const SNSoftmaxArgs& args, const T* logits, T* probs, Scalar<T>* entropies,
                  int64_t begin, int64_t end) {
  Scalar<T>* const e = scratch<Scalar<T>>(vectors_of<T>(args.size));
  for (int64_t row = begin; row < end; ++row) {
    const int64_t offset = row * args.size;
    row_forward<T, kEntropy>(logits + offset, probs + offset, args.size,
                             row_inverses<Scalar<T>>(args, row).t,
                             kEntropy ? entropies + row : nullptr, args.past_caches, e);
  }
}

template <class T, bool kSmooth, bool kTilt>
void backward_long(const SNSoftmaxArgs& args, const T* grad, const Scalar<T>* grad_entropy,
                   const T* logits, T* out, int64_t begin, int64_t end) {
  const int64_t vectors = vectors_of<T>(args.size);
  Scalar<T>* const e = scratch<Scalar<T>>(2 * vectors);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t offset = row * args.size;
    const Scalar<T> tilt = kTilt ? grad_entropy[row] * Constants<Scalar<T>>::ln2 : 0;
    row_backward<T, kSmooth, kTilt>(grad ? grad + offset : nullptr, logits + offset, out + offset,
                                    args.size, row_inverses<Scalar<T>>(args, row), tilt,
                                    args.past_caches, e, e + vectors * kLanes<T>);
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

}  // namespace

void forward(const SNSoftmaxArgs& args, const void* logits, void* probs, void* entropies,
             int64_t begin, int64_t end) {
  with_type<Half, BFloat16>(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto* a = static_cast<const T*>(logits);
    auto* p = static_cast<T*>(probs);
    auto* h = static_cast<Scalar<T>*>(entropies);
    if (args.inner > 1) {
      forward_strided<T>(args, a, p, h, begin, end);
    } else if (args.size > kShortRow) {
      const auto rows = h ? forward_long<T, true> : forward_long<T, false>;
      rows(args, a, p, h, begin, end);
    } else {
      with_size(args.size, [&](auto size) {
        forward_short<T, decltype(size)::value>(args, a, p, h, begin, end);
      });
    }
  });
  if (args.past_caches) stream_fence();
}

void backward(const SNSoftmaxArgs& args, const void* grad, const void* grad_entropy,
              const void* logits, void* grad_logits, int64_t begin, int64_t end) {
  with_type<Half, BFloat16>(args.dtype, [&](auto type) {
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
  if (args.past_caches) stream_fence();
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
