// The mixture's CUDA kernels on the thread rig. The argument "few" is for the slow sanitizers.
#include <cuda_runtime.h>

#include "mixture_cases.h"

namespace {

/// At most three launches, however many maps.
template <class F>
const char* counted(const F& call) {
  const long before = simt::counters.launches;
  const char* const error = call();
  CHECK(simt::counters.launches - before <= 3, "%ld launches", simt::counters.launches - before);
  return error;
}

}  // namespace

const char* run_forward(const MixtureArgs& args, const void* weights, const MixtureRunning& running,
                        bool training, double momentum, double eps, void* mean, void* rstd,
                        MixtureMap out, MixtureMap rectified) {
  std::vector<unsigned char> workspace(mixture_workspace_cuda(args));
  return counted([&] {
    return mixture_forward_cuda(args, weights, running, training, momentum, eps, mean, rstd, out,
                                rectified, workspace.data(), nullptr);
  });
}

const char* run_backward(const MixtureArgs& args, const void* weights, const void* mean,
                         const void* rstd, MixtureMap grad, const MixtureGradients& gradients,
                         void* grad_weights, bool training) {
  std::vector<unsigned char> workspace(mixture_workspace_cuda(args));
  return counted([&] {
    return mixture_backward_cuda(args, weights, mean, rstd, grad, gradients, grad_weights, training,
                                 workspace.data(), nullptr);
  });
}

int main(int count, char** words) { return mixture_cases(count, words); }
