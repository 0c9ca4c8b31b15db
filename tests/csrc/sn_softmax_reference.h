// Eqs. 3, 8 and 13 for one row, by the letter, with a bound on what arithmetic of a given precision
// may do to each result.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace reference {

using Real = long double;  // where it is wider than double, double results have a reference too

struct Row {
  std::vector<double> logits;
  std::vector<double> grad;  // zeros where there is none
  double grad_entropy = 0.0;
  double t = 1.0;
  double st = 0.0;  // 0: no smooth term
};

struct Result {
  std::vector<Real> probs, probs_bound;
  std::vector<Real> grad, grad_bound;
  Real entropy = 0.0, entropy_bound = 0.0;
};

/// softmax(a / t), NaN where PyTorch's is NaN, and z = (a - max a) / t, 0 where p is 0.
inline void softmax(const std::vector<double>& a, Real t, std::vector<Real>& p,
                    std::vector<Real>& z) {
  double max = -std::numeric_limits<double>::infinity();
  bool nan = !(t > 0.0);
  for (double x : a) {
    max = x > max ? x : max;
    nan = nan || std::isnan(x);
  }
  nan = nan || std::isinf(max);
  p.assign(a.size(), std::nanl(""));
  z.assign(a.size(), 0.0);
  if (nan) return;
  Real sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    z[i] = (Real{a[i]} - max) / t;
    p[i] = std::exp(z[i]);
    sum += p[i];
    if (p[i] == 0.0) z[i] = 0.0;
  }
  for (Real& x : p) x /= sum;
}

/// One temperature's p and z, and how far arithmetic of unit `c` may move p, relative to it: by the
/// roundings of its own exponent and of those in the sum below it.
struct Tempered {
  std::vector<Real> p, z;
  Real c, tiny, spread = 0.0;

  Tempered(const std::vector<double>& a, Real t, Real c_, Real tiny_) : c(c_), tiny(tiny_) {
    softmax(a, t, p, z);
    for (size_t i = 0; i < p.size(); ++i) spread += p[i] * std::fabs(z[i]);
  }

  Real slack(size_t i) const { return c * (2.0L + std::fabs(z[i]) + spread); }

  /// Adds J_x v / x, v = grad - tilt z, and its bound.
  void pull_back(const std::vector<double>& grad, Real tilt, Real x, Result& r) const {
    Real mean = 0.0, mean_bound = 0.0;
    const auto v = [&](size_t i) { return grad[i] - tilt * z[i]; };
    const auto v_size = [&](size_t i) { return std::fabs(grad[i]) + std::fabs(tilt * z[i]); };
    for (size_t i = 0; i < p.size(); ++i) {
      mean += p[i] * v(i);
      mean_bound += (p[i] * slack(i) + tiny) * v_size(i);
    }
    for (size_t i = 0; i < p.size(); ++i) {
      r.grad[i] += p[i] * (v(i) - mean) / x;
      const Real deviation = v_size(i) + std::fabs(mean);
      r.grad_bound[i] += p[i] / x * (slack(i) * deviation + mean_bound) + tiny / x * deviation;
    }
  }
};

/// `unit` is the rounding unit of the arithmetic; a p below `tiny` may be taken for zero.
inline Result solve(const Row& row, Real unit, Real tiny) {
  const size_t n = row.logits.size();
  // Sums are taken in some order by some threads.
  const Real c = unit * (8.0L + std::sqrt(static_cast<Real>(n)));
  const Tempered at_t(row.logits, row.t, c, tiny);
  Result r;
  r.probs = at_t.p;
  for (size_t i = 0; i < n; ++i) {
    const Real p = at_t.p[i];
    const Real log_p = p == 0.0L ? 0.0L : std::log(p);
    r.probs_bound.push_back(p * at_t.slack(i) + tiny);
    r.entropy -= p * log_p;
    r.entropy_bound += p * at_t.slack(i) * (1.0L + std::fabs(log_p));
  }
  r.grad.assign(n, 0.0);
  r.grad_bound.assign(n, 0.0);
  at_t.pull_back(row.grad, row.grad_entropy, row.t, r);
  if (row.st != 0.0) Tempered(row.logits, row.st, c, tiny).pull_back(row.grad, 0.0, row.st, r);
  return r;
}

}  // namespace reference
