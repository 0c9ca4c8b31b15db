// The mixture's sums after each pass: a few numbers a channel.
#include "mixture/mixture.h"
#include "mixture/mixture_math.h"

namespace snsoftmax {

namespace {

template <class S>
void merge_statistics(const MixtureArgs& args, const double* partials, const int64_t* bounds,
                      int64_t chunks, double eps, double momentum, const MixtureRunning& running,
                      S* mean, S* rstd) {
  const int64_t values = args.normalized * args.channels;
  for (int64_t i = 0; i < values; ++i) {
    const Moments moments = Moments::of_chunks(
        partials, chunks, values, i, [&](int64_t j) { return bounds[j + 1] - bounds[j]; });
    mean[i] = static_cast<S>(moments.mean);
    rstd[i] = static_cast<S>(inverse_deviation(moments, eps));
    const int64_t k = i / args.channels;
    const int64_t c = i % args.channels;
    if (running.mean[k] != nullptr && !moments.left_out()) {
      update_running(static_cast<S*>(running.mean[k]) + c, momentum, moments.mean);
      update_running(static_cast<S*>(running.var[k]) + c, momentum, moments.unbiased_variance());
    }
  }
}

template <class S>
void running_statistics(const MixtureArgs& args, const MixtureRunning& running, double eps, S* mean,
                        S* rstd) {
  for (int k = 0; k < args.normalized; ++k) {
    for (int64_t c = 0; c < args.channels; ++c) {
      *mean++ = static_cast<const S*>(running.mean[k])[c];
      const double var = static_cast<double>(static_cast<const S*>(running.var[k])[c]);
      *rstd++ = static_cast<S>(inverse_deviation(var, eps));
    }
  }
}

template <class S>
void merge_sums(const MixtureArgs& args, double* partials, int64_t chunks, const S* rstd,
                S* grad_weights) {
  const int maps = args.normalized + args.plain;
  const int64_t values = (1 + maps) * args.channels;
  for (int64_t j = 1; j < chunks; ++j) {
    for (int64_t i = 0; i < values; ++i) partials[i] += partials[j * values + i];
  }
  if (grad_weights == nullptr) return;
  for (int i = 0; i < maps; ++i) {
    double total = 0.0;
    for (int64_t c = 0; c < args.channels; ++c) {
      const double scale =
          i < args.normalized ? static_cast<double>(rstd[i * args.channels + c]) : 1.0;
      total += scale * partials[(1 + i) * args.channels + c];
    }
    grad_weights[i] = static_cast<S>(total);
  }
}

template <class S>
void make_lines(const MixtureArgs& args, const S* weights, const S* mean, const S* rstd,
                const double* sums, S* lines) {
  for (int k = 0; k < args.normalized; ++k) {
    for (int64_t c = 0; c < args.channels; ++c) {
      const int64_t i = k * args.channels + c;
      const double g = sums == nullptr ? 0.0 : sums[c];
      const double gy = sums == nullptr ? 0.0 : sums[args.channels + i];
      const auto line =
          GradientLine<S>::of(weights[k], rstd[i], g, gy, static_cast<double>(args.pixels));
      S* const to = lines + 4 * k * args.channels + c;
      to[0] = mean[i];
      to[args.channels] = line.slope;
      to[2 * args.channels] = line.tilt;
      to[3 * args.channels] = line.shift;
    }
  }
}

}  // namespace

void mixture_lines_cpu(const MixtureArgs& args, const void* weights, const void* mean,
                       const void* rstd, const double* sums, void* lines) {
  const auto make = [&](auto type) {
    using S = decltype(type);
    make_lines(args, static_cast<const S*>(weights), static_cast<const S*>(mean),
               static_cast<const S*>(rstd), sums, static_cast<S*>(lines));
  };
  args.dtype == DType::kFloat64 ? make(double{}) : make(float{});
}

void mixture_merge_statistics_cpu(const MixtureArgs& args, const double* partials,
                                  const int64_t* bounds, int64_t chunks, double eps,
                                  double momentum, const MixtureRunning& running, void* mean,
                                  void* rstd) {
  if (args.dtype == DType::kFloat64) {
    merge_statistics(args, partials, bounds, chunks, eps, momentum, running,
                     static_cast<double*>(mean), static_cast<double*>(rstd));
  } else {
    merge_statistics(args, partials, bounds, chunks, eps, momentum, running,
                     static_cast<float*>(mean), static_cast<float*>(rstd));
  }
}

void mixture_running_statistics_cpu(const MixtureArgs& args, const MixtureRunning& running,
                                    double eps, void* mean, void* rstd) {
  if (args.dtype == DType::kFloat64) {
    running_statistics(args, running, eps, static_cast<double*>(mean), static_cast<double*>(rstd));
  } else {
    running_statistics(args, running, eps, static_cast<float*>(mean), static_cast<float*>(rstd));
  }
}

void mixture_merge_sums_cpu(const MixtureArgs& args, double* partials, int64_t chunks,
                            const void* rstd, void* grad_weights) {
  if (args.dtype == DType::kFloat64) {
    merge_sums(args, partials, chunks, static_cast<const double*>(rstd),
               static_cast<double*>(grad_weights));
  } else {
    merge_sums(args, partials, chunks, static_cast<const float*>(rstd),
               static_cast<float*>(grad_weights));
  }
}

}  // namespace snsoftmax
