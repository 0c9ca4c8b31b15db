// Tensors to try sn-softmax on, and the check of what comes out. The CPU and the CUDA tests share
// it; the half types are the rig's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "sn_softmax/sn_softmax.h"
#include "sn_softmax_reference.h"

namespace snsoftmax {

// ---- element types ----

/// unit: rounding of the arithmetic and of the tensor; tiny: what they may take for zero.
template <class T>
struct Traits;
template <>
struct Traits<float> {
  using Op = float;
  static constexpr DType dtype = DType::kFloat32;
  static constexpr double unit = 0x1p-24, store_unit = 0x1p-24, tiny = 0x1p-126,
                          store_tiny = 0x1p-149;
  static constexpr double largest = 0x1p128;
  static double get(float x) { return x; }
  static float make(double x) { return static_cast<float>(x); }
};
template <>
struct Traits<double> {
  using Op = double;
  static constexpr DType dtype = DType::kFloat64;
  static constexpr double unit = 0x1p-53, store_unit = 0x1p-53, tiny = 0x1p-1022,
                          store_tiny = 0x1p-1074;
  static constexpr double largest = std::numeric_limits<double>::infinity();
  static double get(double x) { return x; }
  static double make(double x) { return x; }
};
template <>
struct Traits<__half> {
  using Op = float;
  static constexpr DType dtype = DType::kFloat16;
  static constexpr double unit = 0x1p-24, store_unit = 0x1p-11, tiny = 0x1p-126,
                          store_tiny = 0x1p-24;
  static constexpr double largest = 65504.0;
  static double get(__half x) { return __half2float(x); }
  static __half make(double x) { return __float2half_rn(static_cast<float>(x)); }
};
template <>
struct Traits<__nv_bfloat16> {
  using Op = float;
  static constexpr DType dtype = DType::kBFloat16;
  static constexpr double unit = 0x1p-24, store_unit = 0x1p-8, tiny = 0x1p-126,
                          store_tiny = 0x1p-133;
  static constexpr double largest = 0x1p128;
  static double get(__nv_bfloat16 x) { return __bfloat162float(x); }
  static __nv_bfloat16 make(double x) { return __float2bfloat16_rn(static_cast<float>(x)); }
};

/// Memory that starts `offset` elements after a 16-byte boundary and ends where the tensor does, so
/// that AddressSanitizer sees the first element too many; without it, a margin is looked at.
template <class T>
class Buffer {
 public:
  Buffer(int64_t size, int offset)
      : size_(size), offset_(offset), bytes_((size + offset + kMargin) * sizeof(T)) {
    memory_ = static_cast<unsigned char*>(::operator new(bytes_));
    std::memset(memory_, kFill, bytes_);
  }
  ~Buffer() { ::operator delete(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return reinterpret_cast<T*>(memory_) + offset_; }
  T& operator[](int64_t i) { return data()[i]; }

  bool margins_untouched() const {
    const size_t begin = offset_ * sizeof(T), end = (size_ + offset_) * sizeof(T);
    for (size_t i = 0; i < bytes_; ++i)
      if ((i < begin || i >= end) && memory_[i] != kFill) return false;
    return true;
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kMargin = 0;
#else
  static constexpr int64_t kMargin = 64;
#endif
  static constexpr unsigned char kFill = 0xa5;
  int64_t size_;
  int64_t offset_;
  size_t bytes_;
  unsigned char* memory_;
};

// ---- cases ----

enum class Logits { kOrdinary, kSmall, kWide, kRising, kEqual, kSpecial };

struct Case {
  int64_t outer = 1;
  int64_t size = 1;
  int64_t inner = 1;
  double t = 1.0;
  bool per_row = false;  // temperatures from memory, one for every row
  Smooth smooth = Smooth::kScaled;
  Logits logits = Logits::kOrdinary;
  bool with_grad = true;
  bool with_entropy = true;
  bool past_caches = false;
  int offset = 0;  // of the logits from a 16-byte boundary, in elements
};

inline std::string describe(const Case& c, DType dtype) {
  char text[256];
  std::snprintf(
      text, sizeof text,
      "[%lld, %lld, %lld] dtype %d t %g per_row %d smooth %d logits %d grad %d entropy %d "
      "offset %d",
      static_cast<long long>(c.outer), static_cast<long long>(c.size),
      static_cast<long long>(c.inner), static_cast<int>(dtype), c.t, c.per_row,
      static_cast<int>(c.smooth), static_cast<int>(c.logits), c.with_grad, c.with_entropy,
      c.offset);
  return text;
}

inline double draw(Logits kind, int64_t row, int64_t i, int64_t size, std::mt19937& random) {
  std::normal_distribution<double> normal;
  const double infinity = std::numeric_limits<double>::infinity();
  switch (kind) {
    case Logits::kOrdinary:
      return normal(random);
    case Logits::kSmall:
      return 1e-3 * normal(random);
    case Logits::kWide:
      return 1e4 * normal(random);
    case Logits::kRising:  // every round raises the maximum
      return 4.0 * static_cast<double>(i) / static_cast<double>(size) + 0.1 * normal(random);
    case Logits::kEqual:
      return 0.25;
    case Logits::kSpecial:
      switch (row % 5) {
        case 0:  // a causal mask
          return i < (size + 1) / 2 ? -infinity : normal(random);
        case 1:
          return -infinity;
        case 2:
          return i == size / 2 ? std::nan("") : normal(random);
        case 3:
          return i == size - 1 ? infinity : normal(random);
        default:
          return i % 2 == 0 ? -6e4 : 6e4 * (i % 3 - 1.0);
      }
  }
  return 0.0;
}

/// `largest` is the type's: beyond it the right answer is infinity.
inline bool same(double got, reference::Real want, reference::Real bound, double largest) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(got)) return (got > 0) == (want > 0) && std::fabs(want) + bound > largest;
  return std::fabs(got - want) <= bound;
}

/// Runs the kernels on a case and holds every result against the reference.
///   kernels.forward(args, name, logits, probs, entropy)
///   kernels.backward(args, name, grad, grad_entropy, logits, grad_logits)
template <class T, class Kernels>
void check_case(const Case& c, Kernels& kernels) {
  using X = Traits<T>;
  using Op = typename X::Op;
  const std::string name = describe(c, X::dtype);
  const int64_t rows = c.outer * c.inner;
  const int64_t count = rows * c.size;
  std::mt19937 random(static_cast<unsigned>(count + 31 * c.offset));
  std::normal_distribution<double> normal;

  Buffer<T> logits(count, c.offset), grad(count, 0), probs(count, 0), grad_logits(count, 0);
  Buffer<Op> grad_entropy(rows, 0), entropy(rows, 0), temperature(rows, 0);
  const auto at = [&](int64_t row, int64_t i) {
    return row / c.inner * c.size * c.inner + i * c.inner + row % c.inner;
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < c.size; ++i) {
      logits[at(row, i)] = X::make(draw(c.logits, row, i, c.size, random));
      grad[at(row, i)] = X::make(normal(random));
    }
    grad_entropy[row] = static_cast<Op>(normal(random));
    temperature[row] = static_cast<Op>(c.t * std::exp2(static_cast<double>(row % 3)));
  }

  SNSoftmaxArgs args;
  args.dtype = X::dtype;
  args.outer = c.outer;
  args.size = c.size;
  args.inner = c.inner;
  args.temperature.value = c.t;
  if (c.per_row) args.temperature = {0.0, temperature.data(), 1};
  args.smooth = c.smooth;
  args.scale = 100.0;
  args.smooth_temperature.value = 1.0;
  args.past_caches = c.past_caches;

  const Op* const gh = c.with_entropy ? grad_entropy.data() : nullptr;
  const T* const g = c.with_grad ? grad.data() : nullptr;
  Op* const h = c.with_entropy ? entropy.data() : nullptr;
  kernels.forward(args, name, logits.data(), probs.data(), h);
  kernels.backward(args, name, g, gh, logits.data(), grad_logits.data());
  for (bool untouched :
       {probs.margins_untouched(), grad_logits.margins_untouched(), entropy.margins_untouched()})
    CHECK(untouched, "%s: wrote outside a tensor", name.c_str());

  for (int64_t row = 0; row < rows; ++row) {
    reference::Row r;
    for (int64_t i = 0; i < c.size; ++i) {
      r.logits.push_back(X::get(logits[at(row, i)]));
      r.grad.push_back(c.with_grad ? X::get(grad[at(row, i)]) : 0.0);
    }
    r.grad_entropy = c.with_entropy ? grad_entropy[row] : 0.0;
    r.t = c.per_row ? temperature[row] : static_cast<Op>(c.t);
    r.st = c.smooth == Smooth::kNone ? 0.0 : c.smooth == Smooth::kScaled ? 100.0 * r.t : 1.0;
    const reference::Result want = reference::solve(r, X::unit, X::tiny);
    for (int64_t i = 0; i < c.size; ++i) {
      const double p = X::get(probs[at(row, i)]), d = X::get(grad_logits[at(row, i)]);
      const double rounding = X::store_unit;
      CHECK(same(p, want.probs[i], want.probs_bound[i] + rounding * want.probs[i] + X::store_tiny,
                 X::largest),
            "%s row %lld: p[%lld] = %.9g, not %.9g", name.c_str(), static_cast<long long>(row),
            static_cast<long long>(i), p, static_cast<double>(want.probs[i]));
      CHECK(
          same(d, want.grad[i],
               want.grad_bound[i] + rounding * std::fabs(want.grad[i]) + X::store_tiny, X::largest),
          "%s row %lld: d[%lld] = %.9g, not %.9g (bound %.2g)", name.c_str(),
          static_cast<long long>(row), static_cast<long long>(i), d,
          static_cast<double>(want.grad[i]), static_cast<double>(want.grad_bound[i]));
      if (want.probs[i] < X::store_tiny / 4)
        CHECK(p == 0.0, "%s: a saturated p is %g, not zero", name.c_str(), p);
    }
    if (c.with_entropy)
      CHECK(same(entropy[row], want.entropy, want.entropy_bound + 4 * X::unit, X::largest),
            "%s row %lld: H = %.9g, not %.9g", name.c_str(), static_cast<long long>(row),
            static_cast<double>(entropy[row]), static_cast<double>(want.entropy));
  }

  // The same bits again, over an output that holds something else.
  std::vector<T> once(probs.data(), probs.data() + count);
  std::memset(probs.data(), 0x5a, static_cast<size_t>(count) * sizeof(T));
  kernels.forward(args, name, logits.data(), probs.data(), nullptr);
  CHECK(std::memcmp(once.data(), probs.data(), static_cast<size_t>(count) * sizeof(T)) == 0,
        "%s: other bits", name.c_str());
}

template <class Kernels>
void check_case_in_all_types(const Case& c, Kernels& kernels) {
  check_case<float>(c, kernels);
  check_case<double>(c, kernels);
  check_case<__half>(c, kernels);
  check_case<__nv_bfloat16>(c, kernels);
}

}  // namespace snsoftmax
