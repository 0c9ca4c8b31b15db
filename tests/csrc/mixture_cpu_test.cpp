// The mixture's CPU kernels, of the capability that SNSOFTMAX_CPU_CAPABILITY names, in three
// chunks.
#include "mixture_cases.h"

namespace {

constexpr int64_t kChunks = 3;

std::vector<int64_t> bounds_of(const MixtureArgs& args) {
  std::vector<int64_t> bounds;
  for (int64_t i = 0; i <= kChunks; ++i) bounds.push_back(args.pixels * i / kChunks);
  return bounds;
}

/// f(chunk, begin, end)
template <class F>
void each_chunk(const MixtureArgs& args, const F& f) {
  const auto bounds = bounds_of(args);
  for (size_t i = 0; i < kChunks; ++i) f(static_cast<int64_t>(i), bounds[i], bounds[i + 1]);
}

}  // namespace

const char* run_forward(const MixtureArgs& args, const void* weights, const MixtureMoments&,
                        const MixtureRunning& running, bool training, double momentum, double eps,
                        void* mean, void* rstd, MixtureMap out, MixtureMap rectified) {
  const int64_t size = 2 * args.normalized * args.channels;
  std::vector<double> partials(static_cast<size_t>(kChunks * size));
  if (training) {
    each_chunk(args, [&](int64_t i, int64_t begin, int64_t end) {
      mixture_statistics_cpu(args, partials.data() + i * size, 0, begin, end);
    });
    mixture_merge_statistics_cpu(args, partials.data(), bounds_of(args).data(), kChunks, eps,
                                 momentum, running, mean, rstd);
  } else {
    mixture_running_statistics_cpu(args, running, eps, mean, rstd);
  }
  each_chunk(args, [&](int64_t, int64_t begin, int64_t end) {
    mixture_combine_cpu(args, weights, mean, rstd, out, rectified, begin, end);
  });
  return nullptr;
}

const char* run_backward(const MixtureArgs& args, const void* weights, const void* mean,
                         const void* rstd, MixtureMap grad, const MixtureGradients& gradients,
                         void* grad_weights, bool training) {
  const int64_t size = (1 + args.normalized + args.plain) * args.channels;
  std::vector<double> partials(static_cast<size_t>(kChunks * size));
  each_chunk(args, [&](int64_t i, int64_t begin, int64_t end) {
    mixture_reduce_cpu(args, mean, grad, grad_weights != nullptr, partials.data() + i * size, begin,
                       end);
  });
  mixture_merge_sums_cpu(args, partials.data(), kChunks, rstd, grad_weights);
  // As many bytes as any opmath takes.
  std::vector<double> lines(static_cast<size_t>(4 * args.normalized * args.channels));
  mixture_lines_cpu(args, weights, mean, rstd, training ? partials.data() : nullptr, lines.data());
  each_chunk(args, [&](int64_t, int64_t begin, int64_t end) {
    mixture_write_cpu(args, weights, lines.data(), grad, gradients, begin, end);
  });
  return nullptr;
}

int main(int count, char** words) { return mixture_cases(count, words); }
