// The arithmetic of the mixture, for the CPU's vector types and for a CUDA thread alike.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace snsoftmax {

/// Count, mean and sum of squared deviations of a set of values.
struct Moments {
  double count;
  double mean;
  double m2;

  /// Of n values, given their sums of (y - shift) and (y - shift)^2.
  static SN_HOST_DEVICE Moments of(double n, double shift, double sum, double squares) {
    const double mean = sum / n;
    const double m2 = squares - sum * mean;
    return {n, shift + mean, m2 < 0.0 ? 0.0 : m2};
  }

  /// Adds another set (Chan, Golub, LeVeque 1983).
  SN_HOST_DEVICE void merge(const Moments& other) {
    const double total = count + other.count;
    if (total == 0.0) return;
    const double delta = other.mean - mean;
    const double share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }

  /// Of value i of `values`, from chunks' means and sums of squared deviations,
  /// [chunks][2][values], of pixels(j) values each.
  template <class F>
  static Moments of_chunks(const double* partials, int64_t chunks, int64_t values, int64_t i,
                           const F& pixels) {
    Moments moments{0.0, 0.0, 0.0};
    for (int64_t j = 0; j < chunks; ++j) {
      const double* const chunk = partials + j * 2 * values + i;
      moments.merge({static_cast<double>(pixels(j)), chunk[0], chunk[values]});
    }
    return moments;
  }

  /// Are there no values? See MixtureMoments.
  SN_HOST_DEVICE bool left_out() const { return m2 < 0.0; }
  SN_HOST_DEVICE double variance() const { return m2 / count; }
  /// As torch's batch norm puts into the running variance; infinite for a single value there too.
  SN_HOST_DEVICE double unbiased_variance() const { return m2 / (count - 1.0); }
};

SN_HOST_DEVICE double inverse_deviation(double variance, double eps) {
  return 1.0 / sqrt(variance + eps);
}

SN_HOST_DEVICE double inverse_deviation(const Moments& moments, double eps) {
  return moments.left_out() ? 0.0 : inverse_deviation(moments.variance(), eps);
}

/// running <- (1 - momentum) running + momentum batch
template <class S>
SN_HOST_DEVICE void update_running(S* running, double momentum, double batch) {
  *running = static_cast<S>((1.0 - momentum) * static_cast<double>(*running) + momentum * batch);
}

/// sum + w rstd (y - mean), scale = w rstd
template <class V, class C>
SN_HOST_DEVICE V add_normalized(V sum, V y, C mean, C scale) {
  return sum + (y - mean) * scale;
}

/// dy = slope g + tilt (y - mean) + shift of one channel of a normalised map.
template <class S>
struct GradientLine {
  S slope;
  S tilt;
  S shift;

  /// From the batch's sums G = sum g and S = sum g (y - mean) over `pixels` values.
  static SN_HOST_DEVICE GradientLine of(double weight, double rstd, double g, double gy,
                                        double pixels) {
    const double slope = weight * rstd;
    return {static_cast<S>(slope), static_cast<S>(-slope * rstd * rstd * gy / pixels),
            static_cast<S>(-slope * g / pixels)};
  }
};

template <class V, class C>
SN_HOST_DEVICE V normalized_gradient(V g, V y, C mean, C slope, C tilt, C shift) {
  return slope * g + (tilt * (y - mean) + shift);
}

}  // namespace snsoftmax
