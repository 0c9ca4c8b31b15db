// What the tests of depthwise convolution share: cases, and sums over taps in double. Maps and
// kernels lie at the end of their allocations, so that the address sanitizer sees a load beyond
// them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "depthwise/depthwise.h"
#include "map_types.h"

using namespace snsoftmax;

namespace {

/// The window of a case's edges: of all of them, or, where they are mixed, of the first.
struct Window {
  int kernel = 3;
  int dilation = 1;
};

/// The edges of a case.
struct Variant {
  int edges = 1;
  bool sliced = false;     ///< their maps are slices of the channels of one
  bool rectified = false;  ///< they read x normalised and rectified
  bool mixed = false;      ///< two of a window, then two of another, and so on
  bool apart = false;      ///< each reads channels of its own, not all as many
  int beside = 0;          ///< channels of the slices' map that are no edge's
};

constexpr Variant kVariants[] = {{1, false, false},
                                 {3, false, true},
                                 {6, true, true},
                                 {1, false, true},
                                 {5, true, false, true},
                                 {2, false, false},
                                 {4, true, true},
                                 {9, true, true, true},
                                 {3, true, true, true, true},
                                 {7, false, false, true},
                                 {4, false, false, true, true}};

template <class T>
std::vector<T> draw(int64_t n, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(n));
  for (T& v : values) v = Traits<T>::make(normal(random));
  return values;
}

template <class T>
void compare(const char* what, const std::vector<T>& found, const std::vector<double>& expected,
             double tolerance, const DepthwiseArgs& a, const Window& window,
             const Variant& variant) {
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(Traits<T>::get(found[i]) - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  CHECK(error <= std::pow(tolerance, 2) * norm,
        "%s of dtype %d deviates by %.1e of %.1e: kernel %d, stride %d, dilation %d, %dx%d pixels, "
        "%d channels, %d edges%s%s%s%s",
        what, static_cast<int>(a.dtype), std::sqrt(error), std::sqrt(norm), window.kernel,
        static_cast<int>(a.stride), window.dilation, static_cast<int>(a.height),
        static_cast<int>(a.width), static_cast<int>(a.channels), variant.edges,
        variant.sliced ? ", sliced" : "", variant.rectified ? ", rectified" : "",
        variant.mixed ? ", mixed" : "", variant.apart ? ", apart" : "");
}

/// One case's inputs, and results to fill and to compare. Whatever holds maps of edges holds one
/// of them, or one in which they are slices.
template <class T>
struct Problem {
  using Op = typename Traits<T>::Op;
  using Maps = std::vector<std::vector<T>>;
  int64_t images;
  DepthwiseArgs a;
  Window window;
  Variant variant;
  DepthwiseEdges shape;  ///< the edges without their memory
  std::vector<T> x, grad_map;
  Maps y, grad;
  std::vector<Op> weights;  ///< [channels, kernel, kernel] of one edge after the other
  std::vector<Op> mean, rstd;

  Problem(int64_t images_, const DepthwiseArgs& args, const Window& window_,
          const Variant& variant_)
      : images(images_), a(args), window(window_), variant(variant_) {
    a.dtype = Traits<T>::dtype;
    make_edges();
    std::mt19937 random(1);
    x = draw<T>(images * a.height * a.width * a.channels, random);
    grad_map.resize(x.size());
    weights = draw<Op>(shape.taps_before(shape.count), random);
    for (int i = 0; i < (variant.sliced ? 1 : shape.count); ++i) {
      const int64_t size = images * a.out_height() * a.out_width() * shape.edge[i].pitch;
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

  void make_edges() {
    constexpr Window others[] = {{5, 2}, {3, 2}, {5, 1}};
    // Of channels apart, an edge has a third of what is left, in packs where there are enough.
    const int unit = a.channels % 8 == 0 ? 8 : 1;
    int begin = 0;
    int width = variant.beside;
    shape.apart = variant.apart;
    while (shape.count < variant.edges && begin < a.channels) {
      DepthwiseEdge& edge = shape.edge[shape.count];
      const int left = static_cast<int>(a.channels) - begin;
      const bool last = shape.count == variant.edges - 1;
      edge.channels = last || !variant.apart ? left : std::min(left, (left / unit + 2) / 3 * unit);
      edge.begin = begin;
      if (variant.apart) begin += edge.channels;
      const Window& mine = variant.mixed && shape.count >= 2 ? others[shape.count / 2 % 3] : window;
      edge.kernel = mine.kernel;
      edge.dilation = mine.dilation;
      edge.pitch = edge.channels;
      width += edge.channels;
      ++shape.count;
    }
    for (int e = 0; e < shape.count && variant.sliced; ++e) shape.edge[e].pitch = width;
  }

  /// The edges with their results or gradients in `maps`, which begin `offset` elements later.
  DepthwiseEdges edges(Maps& maps, size_t offset = 0) const {
    DepthwiseEdges edges = shape;
    int beside = 0;
    for (int e = 0; e < shape.count; ++e) {
      edges.edge[e].map = variant.sliced ? maps[0].data() + offset + beside
                                         : maps[static_cast<size_t>(e)].data() + offset;
      edges.edge[e].weight = weights.data() + shape.taps_before(e);
      beside += shape.edge[e].channels;
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
    int beside = 0;
    for (int e = 0; e < shape.count; ++e) {
      const DepthwiseEdge& edge = shape.edge[e];
      const auto map = static_cast<size_t>(variant.sliced ? 0 : e);
      for (int64_t out = 0; out < images * rows * columns * edge.channels; ++out) {
        const int64_t c = out % edge.channels;
        const int64_t w = out / edge.channels % columns;
        const int64_t h = out / edge.channels / columns % rows;
        const int64_t n = out / edge.channels / columns / rows;
        const auto at = static_cast<size_t>(((n * rows + h) * columns + w) * edge.pitch + c +
                                            (variant.sliced ? beside : 0));
        const double g = Traits<T>::get(grad[map][at]);
        for (int64_t i = 0; i < edge.kernel; ++i) {
          for (int64_t j = 0; j < edge.kernel; ++j) {
            const int64_t row = a.stride * h + edge.dilation * i - edge.padding();
            const int64_t column = a.stride * w + edge.dilation * j - edge.padding();
            if (row < 0 || row >= a.height || column < 0 || column >= a.width) continue;
            const auto in = static_cast<size_t>(
                ((n * a.height + row) * a.width + column) * a.channels + edge.begin + c);
            const auto tap =
                static_cast<size_t>(shape.taps_before(e) + (c * edge.kernel + i) * edge.kernel + j);
            of_y[map][at] += u[in] * weights[tap];
            if (!variant.rectified || u[in] > 0.0) of_map[in] += g * weights[tap];
            of_weights[tap] += g * u[in];
          }
        }
      }
      beside += edge.channels;
    }
    for (size_t i = 0; i < y.size(); ++i) {
      compare("y", y[i], of_y[i], 4 * Traits<T>::store_unit, a, window, variant);
    }
    // What the edges give may cancel.
    compare("the gradient of the map", grad_map, of_map,
            (3 + variant.edges) * Traits<T>::store_unit, a, window, variant);
    // Of double maps the sums here round as often as the kernel's, over some hundred pixels.
    compare("the gradient of the weights", grad_weights, of_weights, 16 * Traits<T>::unit, a,
            window, variant);
  }
};

/// f(images, args, window, variant) for sizes below a kernel, odd ones, and blocks of channels not
/// full.
template <class F>
void each_case(const F& f) {
  const int64_t cases[][4] = {{2, 8, 8, 16}, {3, 7, 5, 37}, {1, 1, 1, 3},
                              {2, 2, 9, 16}, {1, 9, 2, 70}, {5, 12, 11, 8}};
  size_t number = 0;
  for (const auto& c : cases) {
    for (const int kernel : {3, 5}) {
      for (const int64_t stride : {1, 2}) {
        for (const int dilation : {1, 2}) {
          DepthwiseArgs args;
          args.height = c[1];
          args.width = c[2];
          args.channels = c[3];
          args.stride = stride;
          f(c[0], args, Window{kernel, dilation},
            kVariants[number++ % (sizeof kVariants / sizeof *kVariants)]);
        }
      }
    }
  }
}

}  // namespace
