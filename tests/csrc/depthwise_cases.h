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

/// The edges of a case.
struct Variant {
  int edges = 1;
  bool sliced = false;     ///< their maps are slices of the channels of one
  bool rectified = false;  ///< they read x normalised and rectified
  int beside = 0;          ///< channels of the slices' map that are no edge's
};

constexpr Variant kVariants[] = {{1, false, false}, {3, false, true}, {6, true, true},
                                 {1, false, true},  {5, true, false}, {2, false, false},
                                 {4, true, true}};

template <class T>
std::vector<T> draw(int64_t n, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(n));
  for (T& v : values) v = Traits<T>::make(normal(random));
  return values;
}

template <class T>
void compare(const char* what, const std::vector<T>& found, const std::vector<double>& expected,
             double tolerance, const DepthwiseArgs& a, const Variant& variant) {
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(Traits<T>::get(found[i]) - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  CHECK(error <= std::pow(tolerance, 2) * norm,
        "%s of dtype %d deviates by %.1e of %.1e: kernel %d, stride %d, dilation %d, %dx%d pixels, "
        "%d channels, %d edges%s%s",
        what, static_cast<int>(a.dtype), std::sqrt(error), std::sqrt(norm),
        static_cast<int>(a.kernel), static_cast<int>(a.stride), static_cast<int>(a.dilation),
        static_cast<int>(a.height), static_cast<int>(a.width), static_cast<int>(a.channels),
        variant.edges, variant.sliced ? ", sliced" : "", variant.rectified ? ", rectified" : "");
}

/// One case's inputs, and results to fill and to compare. Whatever holds maps of edges holds one
/// of them, or one in which they are slices.
template <class T>
struct Problem {
  using Op = typename Traits<T>::Op;
  using Maps = std::vector<std::vector<T>>;
  int64_t images;
  DepthwiseArgs a;
  Variant variant;
  std::vector<T> x, grad_map;
  Maps y, grad;
  std::vector<Op> weights;  ///< [edges, channels, kernel, kernel]
  std::vector<Op> mean, rstd;

  Problem(int64_t images_, const DepthwiseArgs& args, const Variant& variant_)
      : images(images_), a(args), variant(variant_) {
    a.dtype = Traits<T>::dtype;
    std::mt19937 random(1);
    x = draw<T>(images * a.height * a.width * a.channels, random);
    grad_map.resize(x.size());
    weights = draw<Op>(variant.edges * each(), random);
    const int64_t size = images * a.out_height() * a.out_width() * pitch();
    for (int i = 0; i < (variant.sliced ? 1 : variant.edges); ++i) {
      grad.push_back(draw<T>(size, random));
      y.emplace_back(grad.back().size());
    }
    if (variant.rectified) {
      mean = draw<Op>(a.channels, random);
      rstd = draw<Op>(a.channels, random);
      for (Op& r : rstd) r = std::abs(r) + Op(0.1);
      a.mean = mean.data();
      a.rstd = rstd.data();
    }
  }

  int64_t each() const { return a.channels * a.taps(); }
  int64_t pitch() const {
    return variant.sliced ? variant.edges * a.channels + variant.beside : a.channels;
  }

  /// The edges with their results or gradients in `maps`, which begin `offset` elements later.
  DepthwiseEdges edges(Maps& maps, size_t offset = 0) const {
    DepthwiseEdges edges;
    edges.count = variant.edges;
    edges.pitch = pitch();
    for (int e = 0; e < variant.edges; ++e) {
      edges.maps[e] = variant.sliced ? maps[0].data() + offset + e * a.channels
                                     : maps[static_cast<size_t>(e)].data() + offset;
      edges.weights[e] = weights.data() + e * each();
    }
    return edges;
  }

  /// `grad_weights` is of the opmath type or double.
  template <class G>
  void check(const std::vector<G>& grad_weights) const {
    const int64_t rows = a.out_height();
    const int64_t columns = a.out_width();
    std::vector<double> u(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      u[i] = Traits<T>::get(x[i]);
      if (!variant.rectified) continue;
      const size_t c = i % static_cast<size_t>(a.channels);
      u[i] = std::fmax(0.0, (u[i] - mean[c]) * rstd[c]);
    }
    std::vector<std::vector<double>> of_y;
    for (const auto& map : y) of_y.emplace_back(map.size());
    std::vector<double> of_map(x.size());
    std::vector<double> of_weights(weights.size());
    for (int64_t out = 0; out < images * rows * columns * a.channels * variant.edges; ++out) {
      const int64_t c = out % a.channels;
      const int64_t w = out / a.channels % columns;
      const int64_t h = out / a.channels / columns % rows;
      const int64_t n = out / a.channels / columns / rows % images;
      const int64_t e = out / a.channels / columns / rows / images;
      const auto map = static_cast<size_t>(variant.sliced ? 0 : e);
      const auto at = static_cast<size_t>(((n * rows + h) * columns + w) * pitch() + c +
                                          (variant.sliced ? e * a.channels : 0));
      const double g = Traits<T>::get(grad[map][at]);
      for (int64_t i = 0; i < a.kernel; ++i) {
        for (int64_t j = 0; j < a.kernel; ++j) {
          const int64_t row = a.stride * h + a.dilation * i - a.padding();
          const int64_t column = a.stride * w + a.dilation * j - a.padding();
          if (row < 0 || row >= a.height || column < 0 || column >= a.width) continue;
          const auto in =
              static_cast<size_t>(((n * a.height + row) * a.width + column) * a.channels + c);
          const auto tap = static_cast<size_t>(e * each() + (c * a.kernel + i) * a.kernel + j);
          of_y[map][at] += u[in] * weights[tap];
          if (!variant.rectified || u[in] > 0.0) of_map[in] += g * weights[tap];
          of_weights[tap] += g * u[in];
        }
      }
    }
    for (size_t i = 0; i < y.size(); ++i) {
      compare("y", y[i], of_y[i], 4 * Traits<T>::store_unit, a, variant);
    }
    // What the edges give may cancel.
    compare("the gradient of the map", grad_map, of_map,
            (3 + variant.edges) * Traits<T>::store_unit, a, variant);
    // Of double maps the sums here round as often as the kernel's, over some hundred pixels.
    compare("the gradient of the weights", grad_weights, of_weights, 16 * Traits<T>::unit, a,
            variant);
  }
};

/// f(images, args, variant) for sizes below a kernel, odd ones, and blocks of channels not full.
template <class F>
void each_case(const F& f) {
  const int64_t cases[][4] = {{2, 8, 8, 16}, {3, 7, 5, 37}, {1, 1, 1, 3},
                              {2, 2, 9, 16}, {1, 9, 2, 70}, {5, 12, 11, 8}};
  size_t number = 0;
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
          f(c[0], args, kVariants[number++ % (sizeof kVariants / sizeof *kVariants)]);
        }
      }
    }
  }
}

}  // namespace
