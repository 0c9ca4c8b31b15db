// The formulas of sn-softmax's CUDA kernels: what is summed over a row and what is written.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda_types.h"
#include "sn_softmax_math.h"

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

template <class T_>
class Forward {
 public:
  using T = T_;
  using S = Opmath<T>;
  static constexpr bool kBackward = false;
  static constexpr int kSums = 2;

  __device__ __forceinline__ Forward(const Task<T>& task, int64_t row)
      : inverse_(inverse_temperature(task.temperature(row))), sums_(Sums<S>::zero()) {}

  __device__ __forceinline__ void add(S max, S a, S) {
    const S z = octaves(a, max, inverse_);
    sums_.add(z, exp2_of(z), S(0));
  }

  __device__ __forceinline__ void rescale(S from, S to) {
    const S z = octaves(from, to, inverse_);
    sums_.rescale(z, exp2_of(z));
  }

  __device__ __forceinline__ void get(S (&sums)[kSums]) const {
    sums[0] = sums_.power;
    sums[1] = sums_.moment;
  }
  __device__ __forceinline__ void set(const S (&sums)[kSums]) {
    sums_.power = sums[0];
    sums_.moment = sums[1];
  }

  __device__ __forceinline__ void finish() { inverse_power_ = S(1) / sums_.power; }

  __device__ __forceinline__ S output(S max, S a, S) const {
    return exp2_of(octaves(a, max, inverse_)) * inverse_power_;
  }

  /// By one thread of the group.
  __device__ __forceinline__ void write_row(const Task<T>& task, int64_t row) const {
    if (task.entropy != nullptr)
      task.entropy[row] = entropy(log2_of(sums_.power), inverse_power_, sums_.moment);
  }

 private:
  S inverse_;
  S inverse_power_;
  Sums<S> sums_;
};

template <class T_, bool kSmooth>
class Backward {
 public:
  using T = T_;
  using S = Opmath<T>;
  static constexpr bool kBackward = true;
  static constexpr int kSums = kSmooth ? 5 : 3;

  __device__ __forceinline__ Backward(const Task<T>& task, int64_t row)
      : sums_t_(Sums<S>::zero()), sums_st_(Sums<S>::zero()) {
    inverse_t_ = inverse_temperature(task.temperature(row));
    inverse_st_ = S(0);
    if constexpr (kSmooth)
      inverse_st_ = task.absolute ? inverse_temperature(task.smooth_temperature(row))
                                  : inverse_t_ * task.inverse_scale;
    tilt_ =
        task.grad_entropy == nullptr ? S(0) : __ldg(task.grad_entropy + row) * Constants<S>::ln2;
  }

  __device__ __forceinline__ void add(S max, S a, S g) {
    const S z = octaves(a, max, inverse_t_);
    sums_t_.add(z, exp2_of(z), g);
    if constexpr (kSmooth) {
      const S smooth_z = octaves(a, max, inverse_st_);
      sums_st_.add(smooth_z, exp2_of(smooth_z), g);
    }
  }

  __device__ __forceinline__ void rescale(S from, S to) {
    const S z = octaves(from, to, inverse_t_);
    sums_t_.rescale(z, exp2_of(z));
    if constexpr (kSmooth) {
      const S smooth_z = octaves(from, to, inverse_st_);
      sums_st_.rescale(smooth_z, exp2_of(smooth_z));
    }
  }

  __device__ __forceinline__ void get(S (&sums)[kSums]) const {
    sums[0] = sums_t_.power;
    sums[1] = sums_t_.moment;
    sums[2] = sums_t_.dot;
    if constexpr (kSmooth) {
      sums[3] = sums_st_.power;
      sums[4] = sums_st_.dot;
    }
  }
  __device__ __forceinline__ void set(const S (&sums)[kSums]) {
    sums_t_ = {sums[0], sums[1], sums[2]};
    if constexpr (kSmooth) sums_st_ = {sums[3], S(0), sums[4]};
  }

  __device__ __forceinline__ void finish() {
    at_t_ = Jacobian<S>::of(sums_t_, S(1) / sums_t_.power, tilt_, inverse_t_);
    if constexpr (kSmooth)
      at_st_ = Jacobian<S>::of(sums_st_, S(1) / sums_st_.power, S(0), inverse_st_);
  }

  __device__ __forceinline__ S output(S max, S a, S g) const {
    const S z = octaves(a, max, inverse_t_);
    if constexpr (kSmooth)
      return combine(z, exp2_of(z), exp2_of(octaves(a, max, inverse_st_)), g, tilt_, at_t_, at_st_);
    else
      return combine(z, exp2_of(z), g, tilt_, at_t_);
  }

  __device__ __forceinline__ void write_row(const Task<T>&, int64_t) const {}

 private:
  S inverse_t_, inverse_st_, tilt_;
  Sums<S> sums_t_, sums_st_;
  Jacobian<S> at_t_, at_st_;
};

}  // namespace
}  // namespace snsoftmax
