// What the tests of depthwise convolution share: cases, and sums over taps in double. Maps and
// kernels lie at the end of their allocations, so that the address sanitizer sees a load beyond
// them.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "depthwise/depthwise.h"
#include "map_types.h"

using namespace snsoftmax;

namespace {

template <class T>
std::vector<T> draw(int64_t n, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(n));
  for (T& v : values) v = Traits<T>::make(normal(random));
  return values;
}

template <class T>
void compare(const char* what, const std::vector<T>& found, const std::vector<double>& expected,
             double tolerance, const DepthwiseArgs& a) {
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(Traits<T>::get(found[i]) - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  const double relative = std::sqrt(error / norm);
  CHECK(relative < tolerance,
        "%s of dtype %d deviates by %.1e: kernel %d, stride %d, dilation %d, %dx%d pixels, %d "
        "channels",
        what, static_cast<int>(a.dtype), relative, static_cast<int>(a.kernel),
        static_cast<int>(a.stride), static_cast<int>(a.dilation), static_cast<int>(a.height),
        static_cast<int>(a.width), static_cast<int>(a.channels));
}

/// One case's inputs, and results to fill and to compare.
template <class T>
struct Problem {
  using Op = typename Traits<T>::Op;
  int64_t images;
  DepthwiseArgs a;
  std::vector<T> x, grad, y, grad_map;
  std::vector<Op> weight;

  Problem(int64_t images_, DepthwiseArgs args) : images(images_), a(args) {
    a.dtype = Traits<T>::dtype;
    std::mt19937 random(1);
    x = draw<T>(images * a.height * a.width * a.channels, random);
    weight = draw<Op>(a.channels * a.kernel * a.kernel, random);
    grad = draw<T>(images * a.out_height() * a.out_width() * a.channels, random);
    y.resize(grad.size());
    grad_map.resize(x.size());
  }

  /// `grad_weight` is of the opmath type or double.
  template <class G>
  void check(const std::vector<G>& grad_weight) const {
    const int64_t rows = a.out_height();
    const int64_t columns = a.out_width();
    std::vector<double> of_y(y.size());
    std::vector<double> of_map(x.size());
    std::vector<double> of_weight(weight.size());
    for (int64_t out = 0; out < static_cast<int64_t>(y.size()); ++out) {
      const int64_t c = out % a.channels;
      const int64_t w = out / a.channels % columns;
      const int64_t h = out / a.channels / columns % rows;
      const int64_t n = out / a.channels / columns / rows;
      const double g = Traits<T>::get(grad[static_cast<size_t>(out)]);
      for (int64_t i = 0; i < a.kernel; ++i) {
        for (int64_t j = 0; j < a.kernel; ++j) {
          const int64_t row = a.stride * h + a.dilation * i - a.padding();
          const int64_t column = a.stride * w + a.dilation * j - a.padding();
          if (row < 0 || row >= a.height || column < 0 || column >= a.width) continue;
          const auto in =
              static_cast<size_t>(((n * a.height + row) * a.width + column) * a.channels + c);
          const auto tap = static_cast<size_t>((c * a.kernel + i) * a.kernel + j);
          const double value = Traits<T>::get(x[in]);
          of_y[static_cast<size_t>(out)] += value * weight[tap];
          of_map[in] += g * weight[tap];
          of_weight[tap] += g * value;
        }
      }
    }
    compare("y", y, of_y, 4 * Traits<T>::store_unit, a);
    compare("the gradient of the map", grad_map, of_map, 4 * Traits<T>::store_unit, a);
    compare("the gradient of the weight", grad_weight, of_weight, 8 * Traits<T>::unit, a);
  }
};

/// f(images, args) for sizes below a kernel, odd ones, and blocks of channels not full.
template <class F>
void each_case(const F& f) {
  const int64_t cases[][4] = {{2, 8, 8, 16}, {3, 7, 5, 37}, {1, 1, 1, 3},
                              {2, 2, 9, 16}, {1, 9, 2, 70}, {5, 12, 11, 8}};
  for (const auto& c : cases) {
    for (const int64_t kernel : {3, 5}) {
      for (const int64_t stride : {1, 2}) {
        for (const int64_t dilation : {1, 2}) {
          DepthwiseArgs args;
          args.height = c[1];
          args.width = c[2];
          args.channels = c[3];
          args.kernel = kernel;
          args.stride = stride;
          args.dilation = dilation;
          f(c[0], args);
        }
      }
    }
  }
}

}  // namespace
