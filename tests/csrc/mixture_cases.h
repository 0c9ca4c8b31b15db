// The mixture's kernels against the formulas in mixture.h in double: types, widths, alignments,
// numbers of maps, chunks, and what is left out. Whoever includes this defines run_forward and
// run_backward for a device, and calls mixture_cases().
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "map_types.h"
#include "mixture/mixture.h"

using namespace snsoftmax;

const char* run_forward(const MixtureArgs& args, const void* weights, const MixtureMoments& moments,
                        const MixtureRunning& running, bool training, double momentum, double eps,
                        void* mean, void* rstd, MixtureMap out, MixtureMap rectified);
const char* run_backward(const MixtureArgs& args, const void* weights, const void* mean,
                         const void* rstd, MixtureMap grad, const MixtureGradients& gradients,
                         void* grad_weights, bool training);

namespace {

// ---- cases ----

struct Case {
  int normalized = 2;
  int plain = 2;
  int64_t pixels = 40;
  int64_t channels = 8;
  int64_t gap = 0;  // elements between pixels beyond the channels
  int offset = 0;   // elements from a 16-byte boundary to the maps
  bool training = true;
  bool running = true;
  bool rectified = true;
  bool grad_weights = true;
  bool grad_normalized = true;
  bool grad_plain = true;
  bool accumulate = false;
  unsigned known = 0;  // normalised maps whose moments are given
  unsigned dead = 0;   // maps of weight 0 that are nowhere; only where nothing must read them
};

std::string describe(const Case& c, DType dtype) {
  char text[256];
  std::snprintf(text, sizeof text,
                "dtype %d K %d L %d pixels %lld channels %lld gap %lld offset %d training %d "
                "running %d dw %d dy %d dx %d accumulate %d known %x dead %x",
                static_cast<int>(dtype), c.normalized, c.plain, static_cast<long long>(c.pixels),
                static_cast<long long>(c.channels), static_cast<long long>(c.gap), c.offset,
                c.training, c.running, c.grad_weights, c.grad_normalized, c.grad_plain,
                c.accumulate, c.known, c.dead);
  return text;
}

/// [pixels, channels] with a gap between pixels that must stay as it is.
template <class T>
class Map {
 public:
  Map(const Case& c, std::mt19937& random)
      : channels_(c.channels),
        stride_(c.channels + c.gap),
        memory_(static_cast<size_t>(c.offset + c.pixels * stride_ - c.gap)),
        offset_(c.offset) {
    std::normal_distribution<double> normal;
    for (T& x : memory_) x = Traits<T>::make(2.0 + 3.0 * normal(random));
    before_ = memory_;
  }

  MixtureMap map() { return {memory_.data() + offset_, stride_}; }
  double operator()(int64_t p, int64_t c) const { return value(memory_, p, c); }
  double before(int64_t p, int64_t c) const { return value(before_, p, c); }

  bool gaps_untouched() const {
    for (size_t i = 0; i < memory_.size(); ++i) {
      const int64_t at = static_cast<int64_t>(i) - offset_;
      const bool ours = at >= 0 && at % stride_ < channels_;
      if (!ours && std::memcmp(&memory_[i], &before_[i], sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  double value(const std::vector<T>& from, int64_t p, int64_t c) const {
    return Traits<T>::get(from[static_cast<size_t>(offset_ + p * stride_ + c)]);
  }
  int64_t channels_;
  int64_t stride_;
  std::vector<T> memory_;
  std::vector<T> before_;
  int64_t offset_;
};

template <class T>
void run(const Case& c) {
  using X = Traits<T>;
  using Op = typename X::Op;
  const std::string name = describe(c, X::dtype);
  const int maps = c.normalized + c.plain;
  const auto values = static_cast<size_t>(c.normalized * c.channels);
  const double n = static_cast<double>(c.pixels);
  const double eps = 1e-5;
  const double momentum = 0.1;
  std::mt19937 random(static_cast<unsigned>(maps + c.pixels + c.channels));
  std::normal_distribution<double> normal;

  std::vector<std::unique_ptr<Map<T>>> inputs;
  std::vector<std::unique_ptr<Map<T>>> outputs;
  MixtureArgs args;
  args.dtype = X::dtype;
  args.pixels = c.pixels;
  args.channels = c.channels;
  args.normalized = c.normalized;
  args.plain = c.plain;
  MixtureGradients gradients;
  std::vector<Op> weights;
  for (int i = 0; i < maps; ++i) {
    inputs.push_back(std::make_unique<Map<T>>(c, random));
    outputs.push_back(std::make_unique<Map<T>>(c, random));
    args.maps[i] = inputs.back()->map();
    const bool wanted = i < c.normalized ? c.grad_normalized : c.grad_plain;
    if (wanted) gradients.maps[i] = outputs.back()->map();
    if (c.accumulate && i % 2 == 0) gradients.accumulate |= uint64_t{1} << i;
    weights.push_back(static_cast<Op>(normal(random)));
    if ((c.dead >> i & 1) == 0) continue;
    weights.back() = Op(0);
    args.maps[i].data = nullptr;
  }
  std::vector<double> moments(2 * values);
  MixtureMoments known;
  for (int k = 0; k < c.normalized; ++k) {
    if ((c.known >> k & 1) == 0) continue;
    double* const to = moments.data() + 2 * k * c.channels;
    known.of[k] = to;
    for (int64_t ch = 0; ch < c.channels; ++ch) {
      if ((c.dead >> k & 1) != 0) {
        to[c.channels + ch] = -1.0;
        continue;
      }
      for (int64_t p = 0; p < c.pixels; ++p) to[ch] += (*inputs[k])(p, ch) / n;
      for (int64_t p = 0; p < c.pixels; ++p) {
        to[c.channels + ch] += std::pow((*inputs[k])(p, ch) - to[ch], 2);
      }
    }
  }
  Map<T> out(c, random), rectified(c, random), grad(c, random);
  std::vector<Op> mean(values), rstd(values), running_mean(values), running_var(values, Op(2));
  MixtureRunning running;
  for (int k = 0; k < c.normalized && c.running; ++k) {
    running.mean[k] = running_mean.data() + k * c.channels;
    running.var[k] = running_var.data() + k * c.channels;
  }
  std::vector<Op> dw(static_cast<size_t>(maps), Op(-7));
  const char* error =
      run_forward(args, weights.data(), known, running, c.training, momentum, eps, mean.data(),
                  rstd.data(), out.map(), c.rectified ? rectified.map() : MixtureMap{});
  CHECK(error == nullptr, "%s: %s", name.c_str(), error);
  error = run_backward(args, weights.data(), mean.data(), rstd.data(), grad.map(), gradients,
                       c.grad_weights ? dw.data() : nullptr, c.training);
  CHECK(error == nullptr, "%s: %s", name.c_str(), error);

  // Sums of n values of size s are off by at most about n s units; far less as a rule.
  const double slack = 64.0 * X::unit;
  const auto close = [&](double got, double want, double size, const char* what, int64_t i) {
    CHECK(std::fabs(got - want) <= slack * size + X::store_unit * std::fabs(want),
          "%s: %s[%lld] = %.9g, not %.9g", name.c_str(), what, static_cast<long long>(i), got,
          want);
  };
  std::vector<double> dw_want(static_cast<size_t>(maps)), dw_size(static_cast<size_t>(maps));
  for (int64_t ch = 0; ch < c.channels; ++ch) {
    std::vector<double> mu(static_cast<size_t>(c.normalized)), r(mu), sgy(mu);
    double sg = 0.0, sizes_g = 0.0;
    for (int64_t p = 0; p < c.pixels; ++p) sg += grad(p, ch), sizes_g += std::fabs(grad(p, ch));
    for (int k = 0; k < c.normalized; ++k) {
      const auto i = static_cast<size_t>(k * c.channels + ch);
      if ((c.dead >> k & 1) != 0) {
        CHECK(rstd[i] == 0 && running_mean[i] == 0 && running_var[i] == 2,
              "%s: statistics of a map that was left out", name.c_str());
        continue;
      }
      double m = 0.0, m2 = 0.0;
      for (int64_t p = 0; p < c.pixels; ++p) m += (*inputs[k])(p, ch) / n;
      for (int64_t p = 0; p < c.pixels; ++p) m2 += std::pow((*inputs[k])(p, ch) - m, 2);
      mu[k] = c.training ? m : 0.0;
      r[k] = 1.0 / std::sqrt((c.training ? m2 / n : 2.0) + eps);
      close(mean[i], mu[k], 10.0, "mean", k);
      close(rstd[i], r[k], 10.0 * r[k], "rstd", k);
      const bool moved = c.running && c.training;
      close(running_mean[i], moved ? momentum * m : 0.0, 10.0, "running mean", k);
      close(running_var[i], moved ? 0.9 * 2.0 + momentum * m2 / (n - 1.0) : 2.0, 30.0,
            "running variance", k);
      for (int64_t p = 0; p < c.pixels; ++p) {
        sgy[k] += grad(p, ch) * ((*inputs[k])(p, ch) - mu[k]);
      }
      dw_want[k] += r[k] * sgy[k];
      dw_size[k] += 10.0 * r[k] * sizes_g;
    }
    for (int l = c.normalized; l < maps; ++l) {
      for (int64_t p = 0; p < c.pixels; ++p) dw_want[l] += grad(p, ch) * (*inputs[l])(p, ch);
      dw_size[l] += 10.0 * sizes_g;
    }
    for (int64_t p = 0; p < c.pixels; ++p) {
      double want = 0.0;
      for (int i = 0; i < maps; ++i) {
        if ((c.dead >> i & 1) != 0) continue;
        const double x = (*inputs[i])(p, ch);
        want += weights[i] * (i < c.normalized ? (x - mu[i]) * r[i] : x);
      }
      const double size = 10.0 * maps;
      close(out(p, ch), want, size, "out", p);
      if (c.rectified) {
        CHECK(rectified(p, ch) == std::max(out(p, ch), 0.0), "%s: rectified", name.c_str());
      }
      for (int i = 0; i < maps; ++i) {
        const double kept = outputs[i]->before(p, ch);
        const double got = (*outputs[i])(p, ch);
        if (!(i < c.normalized ? c.grad_normalized : c.grad_plain)) {
          CHECK(got == kept, "%s: an unwanted gradient was written", name.c_str());
          continue;
        }
        double d = weights[i] * grad(p, ch);
        if (i < c.normalized && (c.dead >> i & 1) == 0) {
          const double batch = c.training ? 1.0 : 0.0;
          const double yhat = ((*inputs[i])(p, ch) - mu[i]) * r[i];
          d = weights[i] * r[i] * (grad(p, ch) - batch * (sg / n + yhat * r[i] * sgy[i] / n));
        }
        close(got, d + (c.accumulate && i % 2 == 0 ? kept : 0.0), 100.0, "gradient", i);
      }
    }
  }
  for (int i = 0; i < maps; ++i) {
    if (c.grad_weights) {
      close(dw[i], dw_want[i], dw_size[i], "dw", i);
    } else {
      CHECK(dw[i] == Op(-7), "%s: dw was not asked for", name.c_str());
    }
    CHECK(outputs[i]->gaps_untouched(), "%s: wrote between pixels", name.c_str());
  }
  CHECK(out.gaps_untouched() && rectified.gaps_untouched(), "%s: wrote between pixels of out",
        name.c_str());
}

void run_all_types(const Case& c) {
  run<float>(c);
  run<double>(c);
  run<__nv_bfloat16>(c);
}

void few() {
  run_all_types({});
  Case several;  // chunks, groups of maps, threads without a pixel, gaps
  several.normalized = 5;
  several.plain = 1;
  several.pixels = 900;
  several.channels = 40;
  several.gap = 8;
  several.accumulate = true;
  run<float>(several);
  several.offset = 1;  // element by element
  several.channels = 3;
  several.pixels = 33;
  run<__nv_bfloat16>(several);
  Case wide;  // more channels than threads: two tiles, the second one partial
  wide.channels = 300;
  wide.offset = 1;
  wide.pixels = 5;
  wide.normalized = 1;
  wide.plain = 1;
  run<float>(wide);
  Case folded;  // warps of whole pixels, more chunks than a merge reads side by side
  folded.normalized = 3;
  folded.plain = 1;
  folded.pixels = 1300;
  folded.channels = 64;
  run<float>(folded);
  folded.channels = 16;
  run<__nv_bfloat16>(folded);
  folded.offset = 1;  // element by element
  folded.pixels = 200;
  run<float>(folded);
  Case warps;  // a pixel to a warp
  warps.normalized = 1;
  warps.plain = 1;
  warps.pixels = 700;
  warps.channels = 128;
  run<float>(warps);
}

void all() {
  few();
  for (int64_t channels : {1, 2, 3, 7, 16, 36, 64}) {
    Case c;
    c.channels = channels;
    c.pixels = 23;
    run_all_types(c);
    c.gap = 16;
    c.accumulate = true;
    run_all_types(c);
  }
  for (int64_t pixels : {2, 63, 64, 65, 257, 2100}) {
    Case c;
    c.pixels = pixels;
    c.channels = 64;
    run<float>(c);
    c.offset = 3;
    c.normalized = 1;
    run<float>(c);
  }
  for (int64_t channels : {4, 8, 16, 32, 48, 64, 128, 256}) {  // every folded tile, and others
    Case c;
    c.channels = channels;
    c.pixels = 1100;
    c.normalized = 3;
    c.plain = 1;
    run_all_types(c);
  }
  {
    Case c;  // as many chunks as pixels a thread allow, although many maps fill the GPU
    c.channels = 64;
    c.offset = 3;
    c.pixels = 2600;
    c.normalized = 40;
    c.plain = 0;
    run<float>(c);
  }
  {
    Case c;  // more packs than threads: several tiles
    c.channels = 1100;
    c.pixels = 17;
    c.normalized = 1;
    c.plain = 1;
    run_all_types(c);
    c.offset = 1;
    run<float>(c);
  }
  for (int normalized : {0, 1, 4, 9, 40}) {
    for (int plain : {0, 1, 24}) {
      if (normalized + plain == 0) continue;
      Case c;
      c.normalized = normalized;
      c.plain = plain;
      c.pixels = 9;
      run<float>(c);
    }
  }
  for (int bits = 0; bits < 64; ++bits) {
    Case c;
    c.pixels = 9;
    c.training = (bits & 1) != 0;
    c.running = !c.training || (bits & 2) != 0;
    c.rectified = (bits & 4) != 0;
    c.grad_weights = (bits & 8) != 0;
    c.grad_normalized = (bits & 16) != 0;
    c.grad_plain = (bits & 32) != 0;
    run<float>(c);
  }
}

/// Returns main's result; the argument "few" stands for one case of each kind.
int mixture_cases(int count, char** words) {
  if (count > 1 && std::string(words[1]) == "few") {
    few();
  } else {
    all();
  }
  if (failures == 0) std::printf("mixture: all cases pass\n");
  return failures;
}

}  // namespace
