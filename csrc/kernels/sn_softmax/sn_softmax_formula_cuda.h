// The formulas of sn-softmax's CUDA kernels: what is summed over a row and what is written.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/cuda_types.h"
#include "sn_softmax/sn_softmax_math.h"

namespace snsoftmax {
namespace {

/// 2^x; a result below the smallest normal number is zero.
__device__ __forceinline__ float exp2_of(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return x < -126.0f ? 0.0f : exp2f(x);
#endif
}
__device__ __forceinline__ double exp2_of(double x) { return x < -1022.0 ? 0.0 : exp2(x); }
__device__ __forceinline__ float log2_of(float x) { return log2f(x); }
__device__ __forceinline__ double log2_of(double x) { return log2(x); }

/// x, but the compiler cannot know that it is.
template <class S>
__device__ __forceinline__ S opaque(S x) {
#if defined(__CUDACC__)
  asm volatile("" : "+f"(x));
#endif
  return x;
}

// ---- what a kernel is given ----

template <class S>
struct TemperatureView {
  S value;
  const S* data;
  int64_t stride;

  __device__ __forceinline__ S operator()(int64_t row) const {
    return data == nullptr ? value : __ldg(data + row * stride);
  }
};

template <class T>
struct Task {
  const T* logits;
  const T* grad;                  // null: zeros
  const Opmath<T>* grad_entropy;  // null: zeros
  T* out;                         // probabilities, or the gradient of the logits
  Opmath<T>* entropy;             // null: not wanted
  int64_t rows;
  int64_t inner;
  int size;
  bool aligned;   // every tensor starts on a pack
  bool absolute;  // st is smooth_temperature, not scale * t
  TemperatureView<Opmath<T>> temperature;
  TemperatureView<Opmath<T>> smooth_temperature;
  Opmath<T> inverse_scale;
};

// ---- formulas ----

/// z of an element. Where no entropy is asked for, nothing is multiplied by z, and it may be -inf.
template <bool kEntropy, class S>
__device__ __forceinline__ S exponent(S a, S max, S inverse) {
  if constexpr (kEntropy)
    return octaves(a, max, inverse);
  else
    return (a - max) * (inverse * Constants<S>::log2e);
}

/// `kEntropy`: the row's entropy is wanted too.
template <class T_, bool kEntropy>
class Forward {
 public:
  using T = T_;
  using S = Opmath<T>;
  static constexpr bool kBackward = false;
  static constexpr int kSums = kEntropy ? 2 : 1;

  __device__ __forceinline__ Forward(const Task<T>& task, int64_t row)
      : inverse_(inverse_temperature(task.temperature(row))), sums_(Sums<S>::zero()) {}

  __device__ __forceinline__ void add(S max, S a, S) {
    const S z = exponent<kEntropy>(a, max, inverse_);
    sums_.add(z, exp2_of(z), S(0));
  }

  __device__ __forceinline__ void rescale(S from, S to) {
    const S z = exponent<kEntropy>(from, to, inverse_);
    sums_.rescale(z, exp2_of(z));
  }

  __device__ __forceinline__ void get(S (&sums)[kSums]) const {
    sums[0] = sums_.power;
    if constexpr (kEntropy) sums[1] = sums_.moment;
  }
  __device__ __forceinline__ void set(const S (&sums)[kSums]) {
    sums_.power = sums[0];
    if constexpr (kEntropy) sums_.moment = sums[1];
  }

  __device__ __forceinline__ void finish() { inverse_power_ = S(1) / sums_.power; }

  __device__ __forceinline__ S output(S max, S a, S) const {
    return exp2_of(exponent<kEntropy>(a, max, inverse_)) * inverse_power_;
  }

  /// By one thread of the group.
  __device__ __forceinline__ void write_row(const Task<T>& task, int64_t row) const {
    if constexpr (kEntropy)
      task.entropy[row] = entropy(log2_of(sums_.power), inverse_power_, sums_.moment);
  }

 private:
  S inverse_;
  S inverse_power_;
  Sums<S> sums_;
};

/// `kSmooth`: Eq. 8 has its smooth term; `kEntropy`: the row's entropy has a gradient too.
template <class T_, bool kSmooth, bool kEntropy>
class Backward {
 public:
  using T = T_;
  using S = Opmath<T>;
  static constexpr bool kBackward = true;
  static constexpr int kSums = 2 + 2 * kSmooth + kEntropy;

  __device__ __forceinline__ Backward(const Task<T>& task, int64_t row)
      : inverse_st_(S(0)), tilt_(S(0)), sums_t_(Sums<S>::zero()), sums_st_(Sums<S>::zero()) {
    inverse_t_ = inverse_temperature(task.temperature(row));
    if constexpr (kSmooth)
      inverse_st_ = task.absolute ? inverse_temperature(task.smooth_temperature(row))
                                  : inverse_t_ * task.inverse_scale;
    if constexpr (kEntropy) tilt_ = __ldg(task.grad_entropy + row) * Constants<S>::ln2;
  }

  __device__ __forceinline__ void add(S max, S a, S g) {
    const S z = exponent<kEntropy>(a, max, inverse_t_);
    sums_t_.add(z, exp2_of(z), g);
    if constexpr (kSmooth) sums_st_.add(S(0), exp2_of(smooth_exponent(a, max)), g);
  }

  __device__ __forceinline__ void rescale(S from, S to) {
    const S z = exponent<kEntropy>(from, to, inverse_t_);
    sums_t_.rescale(z, exp2_of(z));
    if constexpr (kSmooth) sums_st_.rescale(S(0), exp2_of(smooth_exponent(from, to)));
  }

  __device__ __forceinline__ void get(S (&sums)[kSums]) const {
    sums[0] = sums_t_.power;
    sums[1] = sums_t_.dot;
    if constexpr (kSmooth) {
      sums[2] = sums_st_.power;
      sums[3] = sums_st_.dot;
    }
    if constexpr (kEntropy) sums[kSums - 1] = sums_t_.moment;
  }
  __device__ __forceinline__ void set(const S (&sums)[kSums]) {
    sums_t_ = {sums[0], S(0), sums[1]};
    if constexpr (kSmooth) sums_st_ = {sums[2], S(0), sums[3]};
    if constexpr (kEntropy) sums_t_.moment = sums[kSums - 1];
  }

  __device__ __forceinline__ void finish() {
    at_t_ = Jacobian<S>::of(sums_t_, S(1) / sums_t_.power, tilt_, inverse_t_);
    if constexpr (kSmooth)
      at_st_ = Jacobian<S>::of(sums_st_, S(1) / sums_st_.power, S(0), inverse_st_);
  }

  __device__ __forceinline__ S output(S max, S a, S g) const {
    const S z = exponent<kEntropy>(a, max, inverse_t_);
    const S tilted = kEntropy ? z : S(0);
    if constexpr (kSmooth)
      return combine(tilted, exp2_of(z), exp2_of(smooth_exponent(a, max)), g, tilt_, at_t_, at_st_);
    else
      return combine(tilted, exp2_of(z), g, tilt_, at_t_);
  }

  __device__ __forceinline__ void write_row(const Task<T>&, int64_t) const {}

 private:
  /// The entropy is that of p, at t: nothing is multiplied by the z at st.
  __device__ __forceinline__ S smooth_exponent(S a, S max) const {
    return exponent<false>(a, max, inverse_st_);
  }

  S inverse_t_, inverse_st_, tilt_;
  Sums<S> sums_t_, sums_st_;
  Jacobian<S> at_t_, at_st_;
};

}  // namespace
}  // namespace snsoftmax
