// The mixture's CUDA kernels on the thread rig. The argument "few" is for the slow sanitizers.
#include <cuda_runtime.h>

#include "mixture_cases.h"

namespace {

/// The first pass of each way by itself, as processes that share a batch out run it.
bool apart = false;

/// At most three launches, however many maps.
template <class F>
const char* counted(const F& call) {
  const long before = simt::counters.launches;
  const char* const error = call();
  CHECK(simt::counters.launches - before <= 3, "%ld launches", simt::counters.launches - before);
  return error;
}

}  // namespace

const char* run_forward(const MixtureArgs& args, const void* weights, const MixtureMoments& moments,
                        const MixtureRunning& running, bool training, double momentum, double eps,
                        void* mean, void* rstd, MixtureMap out, MixtureMap rectified) {
  std::vector<unsigned char> workspace(mixture_workspace_cuda(args));
  const auto forward = [&](double step, void* mean_to, void* rstd_to, MixtureMap out_to) {
    return counted([&] {
      return mixture_forward_cuda(
          args, weights, moments, running, training, step, eps, mean_to, rstd_to, out_to,
          out_to.data == nullptr ? MixtureMap{} : rectified, workspace.data(), nullptr);
    });
  };
  if (!apart || !training || args.normalized == 0) return forward(momentum, mean, rstd, out);
  std::vector<double> scratch(static_cast<size_t>(2 * args.normalized * args.channels));
  double* const second = scratch.data() + args.normalized * args.channels;
  if (const char* error = forward(0.0, scratch.data(), second, out)) return error;
  return forward(momentum, mean, rstd, {});
}

const char* run_backward(const MixtureArgs& args, const void* weights, const void* mean,
                         const void* rstd, MixtureMap grad, const MixtureGradients& gradients,
                         void* grad_weights, bool training) {
  std::vector<unsigned char> workspace(mixture_workspace_cuda(args));
  const auto backward = [&](const double* sums, void* dw) {
    return counted([&] {
      return mixture_backward_cuda(args, weights, mean, rstd, grad, gradients, sums, dw, training,
                                   workspace.data(), nullptr);
    });
  };
  if (!apart || !training || args.normalized == 0) return backward(nullptr, grad_weights);
  std::vector<double> sums(static_cast<size_t>((1 + args.normalized) * args.channels));
  const char* const error = counted([&] {
    return mixture_sums_cuda(args, mean, rstd, grad, sums.data(), grad_weights, workspace.data(),
                             nullptr);
  });
  return error != nullptr ? error : backward(sums.data(), nullptr);
}

namespace {

/// Moments that are given, and maps that nobody reads.
void left_out(bool few_cases) {
  Case c;
  c.normalized = 5;
  c.plain = 3;
  c.pixels = 300;
  c.channels = 16;
  c.grad_weights = false;
  c.known = 0x1f;  // all: no pass over them
  run_all_types(c);
  c.known = 0x0b;
  c.dead = 0x4a;  // two normalised maps and a plain one
  run_all_types(c);
  if (few_cases) return;
  c.accumulate = true;
  run<float>(c);
  c.offset = 1;  // element by element
  run<float>(c);
  c.known = c.dead = 0x1f;
  c.channels = 3;
  run<double>(c);
  c.dead = 0;
  c.grad_weights = true;
  run<float>(c);
  c.training = false;  // the running statistics count
  run<float>(c);
}

}  // namespace

int main(int count, char** words) {
  mixture_cases(count, words);
  left_out(count > 1);
  apart = true;
  few();
  return failures;
}
