#include "mixture_threads.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "mixture/mixture_math.h"

namespace snsoftmax {

using at::Tensor;
using at::TensorList;

namespace {

/// Pixels split evenly over the threads that are worth waking, in chunks of their own.
class Chunks {
 public:
  explicit Chunks(const MixtureArgs& args) {
    constexpr int64_t kWorthAThread = 16384;  // elements read
    const int64_t work = args.pixels * args.channels * (args.normalized + args.plain);
    const int64_t count = std::clamp<int64_t>(work / kWorthAThread, 1, at::get_num_threads());
    for (int64_t i = 0; i <= count; ++i) bounds_.push_back(args.pixels * i / count);
  }

  int64_t count() const { return static_cast<int64_t>(bounds_.size()) - 1; }
  const int64_t* bounds() const { return bounds_.data(); }

  /// f(chunk, first pixel, last pixel + 1)
  template <class F>
  void parallel(const F& f) const {
    at::parallel_for(0, count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i, bounds_[i], bounds_[i + 1]);
    });
  }

 private:
  std::vector<int64_t> bounds_;
};

/// partials[chunk][2][K][channels]
std::vector<double> partial_statistics(const MixtureArgs& args, const Chunks& chunks) {
  const int64_t size = 2 * args.normalized * args.channels;
  std::vector<double> partials(static_cast<size_t>(chunks.count() * size));
  chunks.parallel([&](int64_t i, int64_t begin, int64_t end) {
    mixture_statistics_cpu(args, partials.data() + i * size, 0, begin, end);
  });
  return partials;
}

/// One partial of all pixels: `moments`, and those of the maps whose moments are not there.
std::vector<double> completed(const MixtureArgs& args, TensorList moments) {
  const int64_t values = args.normalized * args.channels;
  std::vector<double> whole(static_cast<size_t>(2 * values));
  MixtureArgs rest = args;
  rest.normalized = rest.plain = 0;
  std::vector<double*> of_rest;
  for (int k = 0; k < args.normalized; ++k) {
    double* const to = whole.data() + k * args.channels;
    if (moments[k].numel() == 0) {
      rest.maps[rest.normalized++] = args.maps[k];
      of_rest.push_back(to);
      continue;
    }
    const double* const from = moments[k].const_data_ptr<double>();
    std::copy_n(from, args.channels, to);
    std::copy_n(from + args.channels, args.channels, to + values);
  }
  if (of_rest.empty()) return whole;
  const Chunks chunks(rest);
  const std::vector<double> partials = partial_statistics(rest, chunks);
  const int64_t taken = rest.normalized * args.channels;
  for (int64_t i = 0; i < taken; ++i) {
    const Moments total =
        Moments::of_chunks(partials.data(), chunks.count(), taken, i,
                           [&](int64_t j) { return chunks.bounds()[j + 1] - chunks.bounds()[j]; });
    double* const to = of_rest[static_cast<size_t>(i / args.channels)] + i % args.channels;
    to[0] = total.mean;
    to[values] = total.m2;
  }
  return whole;
}

}  // namespace

void statistics_cpu(const MixtureArgs& args, TensorList moments, const MixtureRunning& running,
                    double momentum, double eps, void* mean, void* rstd) {
  const Chunks chunks(args);
  const int64_t all[] = {0, args.pixels};
  const bool given = !moments.empty();
  const std::vector<double> partials =
      given ? completed(args, moments) : partial_statistics(args, chunks);
  mixture_merge_statistics_cpu(args, partials.data(), given ? all : chunks.bounds(),
                               given ? 1 : chunks.count(), eps, momentum, running, mean, rstd);
}

void forward_cpu(const MixtureArgs& args, const void* weights, const MixtureRunning& running,
                 bool training, double momentum, double eps, void* mean, void* rstd, MixtureMap out,
                 MixtureMap rectified, TensorList moments) {
  const Chunks chunks(args);
  if (!training) {
    mixture_running_statistics_cpu(args, running, eps, mean, rstd);
  } else if (args.normalized > 0) {
    statistics_cpu(args, moments, running, momentum, eps, mean, rstd);
  }
  chunks.parallel([&](int64_t, int64_t begin, int64_t end) {
    mixture_combine_cpu(args, weights, mean, rstd, out, rectified, begin, end);
  });
}

std::vector<double> sums_cpu(const MixtureArgs& args, const void* mean, const void* rstd,
                             MixtureMap grad, void* grad_weights) {
  const Chunks chunks(args);
  const int64_t size = (1 + args.normalized + args.plain) * args.channels;
  std::vector<double> partials(static_cast<size_t>(chunks.count() * size));
  chunks.parallel([&](int64_t i, int64_t begin, int64_t end) {
    mixture_reduce_cpu(args, mean, grad, grad_weights != nullptr, partials.data() + i * size, begin,
                       end);
  });
  mixture_merge_sums_cpu(args, partials.data(), chunks.count(), rstd, grad_weights);
  return partials;
}

void backward_cpu(const MixtureArgs& args, const void* weights, const void* mean, const void* rstd,
                  MixtureMap grad, const MixtureGradients& gradients, const double* given,
                  void* grad_weights, bool training, void* lines) {
  const Chunks chunks(args);
  const auto wanted = [&](int first, int last) {
    return std::any_of(gradients.maps + first, gradients.maps + last,
                       [](const MixtureMap& map) { return map.data != nullptr; });
  };
  const bool needs_lines = lines != nullptr || wanted(0, args.normalized);
  const bool needs_sums = training && needs_lines;
  std::vector<double> taken;
  if (given == nullptr && (needs_sums || grad_weights != nullptr)) {
    taken = sums_cpu(args, mean, rstd, grad, grad_weights);
  }
  const double* const sums = given != nullptr ? given : needs_sums ? taken.data() : nullptr;
  std::vector<double> own;  // as many bytes as any opmath takes
  if (needs_lines && lines == nullptr) {
    own.resize(static_cast<size_t>(4 * args.normalized * args.channels));
    lines = own.data();
  }
  if (needs_lines) mixture_lines_cpu(args, weights, mean, rstd, sums, lines);
  if (wanted(0, args.normalized + args.plain)) {
    chunks.parallel([&](int64_t, int64_t begin, int64_t end) {
      mixture_write_cpu(args, weights, lines, grad, gradients, begin, end);
    });
  }
}

}  // namespace snsoftmax
