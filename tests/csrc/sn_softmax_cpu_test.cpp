// The CPU kernels against the reference, in the capability that the environment asks for.
#include <sys/mman.h>

#include "common/capability.h"
#include "sn_softmax_cases.h"

using namespace snsoftmax;

namespace {

/// Rows in two calls, as two threads would take them.
struct OnCPU {
  void forward(const SNSoftmaxArgs& args, const std::string&, const void* logits, void* probs,
               void* entropy) {
    const int64_t rows = args.outer * args.inner, middle = rows / 3;
    sn_softmax_forward_cpu(args, logits, probs, entropy, 0, middle);
    sn_softmax_forward_cpu(args, logits, probs, entropy, middle, rows);
  }

  void backward(const SNSoftmaxArgs& args, const std::string&, const void* grad,
                const void* grad_entropy, const void* logits, void* grad_logits) {
    const int64_t rows = args.outer * args.inner, middle = rows / 3;
    sn_softmax_backward_cpu(args, grad, grad_entropy, logits, grad_logits, 0, middle);
    sn_softmax_backward_cpu(args, grad, grad_entropy, logits, grad_logits, middle, rows);
  }
};

/// Address space whose pages are there once they are written to.
float* reserve(int64_t elements) {
  void* const memory =
      mmap(nullptr, static_cast<size_t>(elements) * sizeof(float), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED, "no address space for %lld elements",
        static_cast<long long>(elements));
  return static_cast<float*>(memory);
}

/// The last rows of a tensor of more than 2^31 elements: the same bits as in a tensor of their own.
void check_far_rows(int64_t size) {
  constexpr int64_t kRows = 37;
  SNSoftmaxArgs args;
  args.size = size;
  args.outer = (int64_t{1} << 31) / size + kRows;
  args.temperature.value = 0.5;
  args.smooth = Smooth::kAbsolute;
  SNSoftmaxArgs near = args;
  near.outer = kRows;
  const int64_t count = args.outer * size, first = (args.outer - kRows) * size;
  float* const logits = reserve(count);
  float* const out = reserve(count);
  for (int64_t i = first; i < count; ++i) logits[i] = std::sin(static_cast<float>(i - first));
  std::vector<float> expected(static_cast<size_t>(kRows * size));
  const auto same = [&] {
    return std::memcmp(out + first, expected.data(), expected.size() * sizeof(float)) == 0;
  };
  sn_softmax_forward_cpu(near, logits + first, expected.data(), nullptr, 0, kRows);
  sn_softmax_forward_cpu(args, logits, out, nullptr, args.outer - kRows, args.outer);
  CHECK(same(), "forward of far rows of %lld", static_cast<long long>(size));
  sn_softmax_backward_cpu(near, logits + first, nullptr, logits + first, expected.data(), 0, kRows);
  sn_softmax_backward_cpu(args, logits, nullptr, logits, out, args.outer - kRows, args.outer);
  CHECK(same(), "backward of far rows of %lld", static_cast<long long>(size));
  munmap(logits, static_cast<size_t>(count) * sizeof(float));
  munmap(out, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace

int main() {
  for (int64_t size : {5, 8, 1000}) check_far_rows(size);

  OnCPU cpu;
  for (int64_t size : {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 128, 1000, 1025})
    for (int64_t inner : {1, 7, 16, 33})
      for (Logits logits : {Logits::kOrdinary, Logits::kWide, Logits::kEqual, Logits::kSpecial}) {
        Case c;
        c.size = size;
        c.inner = inner;
        c.outer = inner > 1 ? 1 : size < 64 ? 37 : 5;
        c.logits = logits;
        c.offset = size % 3;
        c.per_row = inner % 2 == 1;
        c.past_caches = logits == Logits::kOrdinary || logits == Logits::kSpecial;
        c.smooth = size % 2 == 0 ? Smooth::kScaled : Smooth::kAbsolute;
        check_case_in_all_types(c, cpu);
        c.smooth = Smooth::kNone;
        check_case_in_all_types(c, cpu);
      }
  for (double t : {1e6, 1.0, 1e-3, 1e-4, 1e-6})
    for (int64_t size : {5, 8, 100, 5000}) {
      Case c;
      c.size = size;
      c.outer = 6;
      c.t = t;
      c.logits = Logits::kSmall;
      check_case_in_all_types(c, cpu);
      c.with_grad = false;
      check_case_in_all_types(c, cpu);
      c.with_grad = true;
      c.with_entropy = false;
      check_case_in_all_types(c, cpu);
    }
  Case vocabulary;
  vocabulary.size = 50257;
  vocabulary.outer = 2;
  vocabulary.logits = Logits::kRising;
  check_case_in_all_types(vocabulary, cpu);
  vocabulary.past_caches = true;
  check_case_in_all_types(vocabulary, cpu);
  std::printf("%s: %d failures\n", capability_name(cpu_capability()), failures);
  return failures != 0;
}
