// The CUDA sources on the thread rig, against the double reference: every regime, type, edge size,
// alignment and temperature.
//
//   sn_softmax_cuda_test          all cases
//   sn_softmax_cuda_test few      some of every regime, for the slow sanitizers and for mutants
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "check.h"
#include "sn_softmax.h"
#include "sn_softmax_plan.h"
#include "sn_softmax_reference.h"

using namespace snsoftmax;

namespace {

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
  static double get(float x) { return x; }
  static float make(double x) { return static_cast<float>(x); }
};
template <>
struct Traits<double> {
  using Op = double;
  static constexpr DType dtype = DType::kFloat64;
  static constexpr double unit = 0x1p-53, store_unit = 0x1p-53, tiny = 0x1p-1022,
                          store_tiny = 0x1p-1074;
  static double get(double x) { return x; }
  static double make(double x) { return x; }
};
template <>
struct Traits<__half> {
  using Op = float;
  static constexpr DType dtype = DType::kFloat16;
  static constexpr double unit = 0x1p-24, store_unit = 0x1p-11, tiny = 0x1p-126,
                          store_tiny = 0x1p-24;
  static double get(__half x) { return __half2float(x); }
  static __half make(double x) { return __float2half_rn(static_cast<float>(x)); }
};
template <>
struct Traits<__nv_bfloat16> {
  using Op = float;
  static constexpr DType dtype = DType::kBFloat16;
  static constexpr double unit = 0x1p-24, store_unit = 0x1p-8, tiny = 0x1p-126,
                          store_tiny = 0x1p-133;
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
  int offset = 0;  // of the logits from a 16-byte boundary, in elements
};

std::string describe(const Case& c, DType dtype) {
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

double draw(Logits kind, int64_t row, int64_t i, int64_t size, std::mt19937& random) {
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

bool same(double got, reference::Real want, reference::Real bound) {
  if (std::isnan(want)) return std::isnan(got);
  return std::fabs(got - want) <= bound;
}

// Which kernels have run; main() asks for all of them.
using Configuration = std::tuple<DType, Pass, Smooth, Regime, int>;
std::set<Configuration> seen;

Device device() {
  return {simt::device.multiprocessors, simt::device.max_threads, simt::device.shared_per_block,
          simt::device.shared_per_multiprocessor};
}

void note(const SNSoftmaxArgs& args, Pass pass) {
  const Plan plan = sn_softmax_plan(args, pass, device());
  const int variant = plan.regime == Regime::kWarp      ? plan.lanes * plan.packs
                      : plan.regime == Regime::kStrided ? plan.threads_y
                                                        : 0;
  seen.insert({args.dtype, pass, pass == Pass::kForward ? Smooth::kNone : args.smooth, plan.regime,
               variant});
}

template <class Launch>
void expect_launches(const SNSoftmaxArgs& args, Pass pass, const std::string& name,
                     const Launch& launch) {
  const long before = simt::counters.launches;
  const char* const error = launch();
  CHECK(error == nullptr, "%s: %s", name.c_str(), error);
  const long wanted = sn_softmax_plan(args, pass, device()).regime == Regime::kSplit ? 2 : 1;
  CHECK(simt::counters.launches - before == wanted, "%s: %ld launches instead of %ld", name.c_str(),
        simt::counters.launches - before, wanted);
  note(args, pass);
}

template <class T>
void run(const Case& c) {
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

  const size_t workspace_bytes = sn_softmax_workspace_cuda(args);
  Buffer<unsigned char> workspace(static_cast<int64_t>(workspace_bytes), 0);
  const Op* const gh = c.with_entropy ? grad_entropy.data() : nullptr;
  const T* const g = c.with_grad ? grad.data() : nullptr;
  expect_launches(args, Pass::kForward, name, [&] {
    return sn_softmax_forward_cuda(args, logits.data(), probs.data(),
                                   c.with_entropy ? entropy.data() : nullptr, workspace.data(),
                                   nullptr);
  });
  expect_launches(args, Pass::kBackward, name, [&] {
    return sn_softmax_backward_cuda(args, g, gh, logits.data(), grad_logits.data(),
                                    workspace.data(), nullptr);
  });
  for (bool untouched : {probs.margins_untouched(), grad_logits.margins_untouched(),
                         entropy.margins_untouched(), workspace.margins_untouched()})
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
    const reference::Result want = reference::solve(r, X::unit);
    for (int64_t i = 0; i < c.size; ++i) {
      const double p = X::get(probs[at(row, i)]), d = X::get(grad_logits[at(row, i)]);
      const double rounding = X::store_unit;
      CHECK(same(p, want.probs[i],
                 want.probs_bound[i] + rounding * want.probs[i] + X::tiny + X::store_tiny),
            "%s row %lld: p[%lld] = %.9g, not %.9g", name.c_str(), static_cast<long long>(row),
            static_cast<long long>(i), p, static_cast<double>(want.probs[i]));
      CHECK(same(d, want.grad[i],
                 want.grad_bound[i] + rounding * std::fabs(want.grad[i]) + X::tiny / r.t +
                     X::store_tiny),
            "%s row %lld: d[%lld] = %.9g, not %.9g (bound %.2g)", name.c_str(),
            static_cast<long long>(row), static_cast<long long>(i), d,
            static_cast<double>(want.grad[i]), static_cast<double>(want.grad_bound[i]));
      if (want.probs[i] < X::store_tiny / 4)
        CHECK(p == 0.0, "%s: a saturated p is %g, not zero", name.c_str(), p);
    }
    if (c.with_entropy)
      CHECK(same(entropy[row], want.entropy, want.entropy_bound + 4 * X::unit),
            "%s row %lld: H = %.9g, not %.9g", name.c_str(), static_cast<long long>(row),
            static_cast<double>(entropy[row]), static_cast<double>(want.entropy));
  }

  // The same bits again, from memory that holds something else.
  std::vector<T> once(probs.data(), probs.data() + count);
  sn_softmax_forward_cuda(args, logits.data(), probs.data(), nullptr, workspace.data(), nullptr);
  CHECK(std::memcmp(once.data(), probs.data(), count * sizeof(T)) == 0, "%s: other bits",
        name.c_str());
}

void run_all_types(const Case& c) {
  run<float>(c);
  run<double>(c);
  run<__half>(c);
  run<__nv_bfloat16>(c);
}

// ---- the two devices ----

/// Few threads and little memory, so that short rows reach every regime quickly.
void use_tiny_device() { simt::device = {64, 4, 32 << 10, 64 << 10}; }
/// The real thing: the block sizes and limits of an H100.
void use_full_device() { simt::device = simt::Device{}; }

/// A size in every regime of the tiny device, for any type.
const std::vector<int64_t> kFewSizes = {5, 8, 33, 200, 700};

void few() {
  use_tiny_device();
  for (int64_t size : kFewSizes) {
    Case c;
    c.outer = 3;
    c.size = size;
    c.logits = Logits::kRising;
    c.t = 0.25;
    run<float>(c);
    run<__nv_bfloat16>(c);
  }
  for (int64_t size : {2500, 9000, 40000}) {  // shared or streamed, streamed, split
    Case c;
    c.outer = 2;
    c.size = size;
    c.t = 0.1;
    c.logits = Logits::kRising;
    run<float>(c);
  }
  for (int64_t inner : {2, 40}) {
    Case c;
    c.outer = 2;
    c.size = 130;
    c.inner = inner;
    c.t = 0.25;
    c.logits = Logits::kRising;
    run<float>(c);
  }
}

void all() {
  use_tiny_device();
  // Edge sizes, and every alignment of a row and of a tensor.
  for (int64_t size : {1,  2,   3,   4,   5,   7,   8,   9,   16,  31,  32,   33,   63,  64,
                       65, 100, 127, 128, 129, 255, 256, 257, 384, 513, 1000, 1024, 1025}) {
    Case c;
    c.size = size;
    c.outer = size < 40 ? 67 : 5;
    run_all_types(c);
    c.offset = 1;
    c.smooth = Smooth::kAbsolute;
    run_all_types(c);
    c.outer = 1;
    c.offset = 2;
    c.smooth = Smooth::kNone;
    run_all_types(c);
  }
  for (int64_t size : {2047, 2048, 3500, 4096, 9001}) {  // registers, shared memory, streams
    Case c;
    c.size = size;
    c.outer = 5;
    c.logits = Logits::kRising;
    run_all_types(c);
    c.smooth = Smooth::kNone;
    c.offset = 3;
    run_all_types(c);
  }
  for (int64_t size : {16384, 50257, 65537}) {  // few rows: split; the rest: streams
    Case c;
    c.size = size;
    c.outer = 2;
    c.logits = Logits::kRising;
    run_all_types(c);
    c.smooth = Smooth::kNone;
    run_all_types(c);
  }
  // Temperatures, from a value and from memory, and both smooth terms.
  for (int64_t size : {5, 8, 100, 700, 9000, 70000})
    for (double t : {1e6, 1.0, 1e-3, 1e-4, 1e-6})
      for (Smooth smooth : {Smooth::kScaled, Smooth::kAbsolute}) {
        Case c;
        c.size = size;
        c.outer = size < 1000 ? 4 : 2;
        c.t = t;
        c.per_row = smooth == Smooth::kScaled;
        c.smooth = smooth;
        c.logits = Logits::kSmall;
        run<float>(c);
        run<__half>(c);
        if (size < 1000) run<double>(c);
      }
  // What logits can be.
  for (int64_t size : {1, 2, 5, 8, 100, 700, 3000, 9000, 70000})
    for (Logits logits : {Logits::kWide, Logits::kEqual, Logits::kSpecial}) {
      Case c;
      c.size = size;
      c.outer = size < 50000 ? 5 : 3;
      c.logits = logits;
      c.t = logits == Logits::kEqual ? 1e-4 : 1.0;
      run_all_types(c);
    }
  // Gradients of p alone, of H alone.
  for (int64_t size : {5, 8, 100, 700, 3000, 9000, 70000}) {
    Case c;
    c.size = size;
    c.outer = 3;
    c.with_entropy = false;
    run<float>(c);
    c.with_entropy = true;
    c.with_grad = false;
    c.logits = Logits::kSmall;
    c.t = 1e-3;
    run<float>(c);
    run<__nv_bfloat16>(c);
  }
  // Rows that are not the last dimension.
  for (int64_t inner : {2, 3, 31, 32, 33, 100})
    for (int64_t size : {1, 2, 5, 8, 33, 130, 1000})
      for (Smooth smooth : {Smooth::kScaled, Smooth::kNone}) {
        Case c;
        c.size = size;
        c.inner = inner;
        c.outer = size < 100 ? 3 : 1;
        c.smooth = smooth;
        c.per_row = true;
        c.logits = size % 2 == 0 ? Logits::kSpecial : Logits::kRising;
        run<float>(c);
        run<double>(c);
        run<__half>(c);
        run<__nv_bfloat16>(c);
      }
  {  // more columns than a block has threads
    Case c;
    c.size = 12;
    c.inner = 1000;
    run_all_types(c);
  }
}

/// The block sizes that a real device gets.
void full_device() {
  use_full_device();
  for (int64_t size : {5, 33, 513, 4096, 9001}) {
    Case c;
    c.size = size;
    c.outer = 2;
    c.logits = Logits::kRising;
    run<float>(c);
    run<__nv_bfloat16>(c);
  }
  Case split;
  split.size = 100003;
  split.logits = Logits::kRising;
  run<float>(split);
  Case stream;
  stream.size = 30011;
  stream.outer = 1;
  simt::device.multiprocessors = 1;  // no split
  run<float>(stream);
  Case strided;
  strided.size = 200;
  strided.inner = 33;
  use_full_device();
  run<float>(strided);
}

/// Every kernel has run for every type.
void expect_coverage() {
  for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
    for (auto [pass, smooth] :
         std::vector<std::pair<Pass, Smooth>>{{Pass::kForward, Smooth::kNone},
                                              {Pass::kBackward, Smooth::kNone},
                                              {Pass::kBackward, Smooth::kScaled}}) {
      std::vector<std::pair<Regime, int>> wanted = {
          {Regime::kTile, 0},  {Regime::kBlock, 0},   {Regime::kShared, 0}, {Regime::kStream, 0},
          {Regime::kSplit, 0}, {Regime::kStrided, 1}, {Regime::kStrided, 2}};
      for (int lanes : {1, 2, 4, 8, 16, 32, 64}) wanted.push_back({Regime::kWarp, lanes});
      for (const auto& [regime, variant] : wanted)
        CHECK(seen.count({dtype, pass, smooth, regime, variant}) == 1,
              "no case ran dtype %d pass %d smooth %d regime %d variant %d",
              static_cast<int>(dtype), static_cast<int>(pass), static_cast<int>(smooth),
              static_cast<int>(regime), variant);
    }
}

void expect_refusals() {
  SNSoftmaxArgs args;
  args.outer = 1;
  args.size = kMaxSize + 1;
  const char* const error =
      sn_softmax_forward_cuda(args, nullptr, nullptr, nullptr, nullptr, nullptr);
  CHECK(error != nullptr, "a row that int cannot count was not refused");
  args.size = 0;
  const long before = simt::counters.launches;
  CHECK(sn_softmax_forward_cuda(args, nullptr, nullptr, nullptr, nullptr, nullptr) == nullptr &&
            simt::counters.launches == before,
        "an empty tensor needs no launch");
}

}  // namespace

int main(int argc, char** argv) {
  expect_refusals();
  if (argc > 1 && std::strcmp(argv[1], "few") == 0) {
    few();
  } else {
    all();
    full_device();
    expect_coverage();
  }
  std::printf("%ld launches, %ld blocks, %d failures\n", simt::counters.launches,
              simt::counters.blocks, failures);
  return failures != 0;
}
