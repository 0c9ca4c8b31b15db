// The gradients of a node's convolutions on the thread rig, against node_convolve.h's formulas in
// double. The gradients of edges that are not live are NaN, so that reading one is seen.
//
// Tolerances: as of the convolutions themselves; the sums of the kernels' gradients run over all
// pixels, and are rounded to float after each step and each slice.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "check.h"
#include "node_convolve/node_convolve.h"
#include "node_convolve/node_convolve_math.h"
#include "node_convolve_cases.h"

namespace {

using snsoftmax::NodeConvolveArgs;
using snsoftmax::NodeConvolveGradients;

/// One operation: its kernels, the gradients of its maps and what becomes of them.
template <class T>
struct Backward {
  int side, edges;
  std::vector<T> weight, grad, grad_weight;
  std::unique_ptr<bool[]> live;

  Backward(const Case& c, int side_, int edges_, unsigned dead, std::mt19937& random)
      : side(side_),
        edges(edges_),
        weight(draw<T>(edges * c.channels * side * side * c.channels, 0.25, random)),
        grad(draw<T>(c.pixels() * edges * c.channels, 1.0, random)),
        grad_weight(weight.size(), Traits<T>::make(kUnwritten)) {
    if (dead == 0) return;
    live.reset(new bool[static_cast<size_t>(edges)]);
    for (int e = 0; e < edges; ++e) live[static_cast<size_t>(e)] = (dead >> e & 1u) == 0;
    for (size_t i = 0; i < grad.size(); ++i) {
      const auto edge = static_cast<int64_t>(i) / c.channels % edges;
      if (!is_live(edge)) grad[i] = Traits<T>::make(NAN);
    }
  }

  bool is_live(int64_t edge) const { return !live || live[static_cast<size_t>(edge)]; }
  NodeConvolveGradients arguments() const {
    return {edges, live.get(), grad.data(), weight.data()};
  }
  double grad_at(int64_t pixel, int64_t column, int64_t channels) const {
    return Traits<T>::get(grad[static_cast<size_t>(pixel * edges * channels + column)]);
  }

  void check_weights(const Case& c, const T* x) const {
    const int64_t columns = edges * c.channels, taps = side * side;
    const int border = side / 2;
    const double factor = sizeof(T) == 4 ? 0x1p-10 : 0.0;  // of two factors
    const double steps = static_cast<double>(c.pixels() + 1024) / 8.0 + 128.0;
    for (int64_t k = 0; k < columns; ++k) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        std::vector<double> want(static_cast<size_t>(c.channels)), size(want);
        for (int64_t p = 0; p < (is_live(k / c.channels) ? c.pixels() : 0); ++p) {
          const int64_t row = p / c.width % c.height + tap / side - border;
          const int64_t column = p % c.width + tap % side - border;
          if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
          const T* const from =
              x + (p + (tap / side - border) * c.width + tap % side - border) * c.channels;
          for (int64_t ch = 0; ch < c.channels; ++ch) {
            const double term = std::max(Traits<T>::get(from[ch]), 0.0) * grad_at(p, k, c.channels);
            want[static_cast<size_t>(ch)] += term;
            size[static_cast<size_t>(ch)] += std::fabs(term);
          }
        }
        for (int64_t ch = 0; ch < c.channels; ++ch) {
          const auto at = static_cast<size_t>(ch);
          const double found =
              Traits<T>::get(grad_weight[static_cast<size_t>((k * taps + tap) * c.channels + ch)]);
          const double slack = size[at] * (factor + steps * 2.0 * Traits<T>::unit) +
                               Traits<T>::store_unit * std::fabs(want[at]);
          CHECK(std::fabs(found - want[at]) <= slack,
                "%s: dw %dx%d[%lld, %lld, %lld] = %.9g, not %.9g (+- %.2g)",
                describe(c, Traits<T>::dtype).c_str(), side, side, static_cast<long long>(k),
                static_cast<long long>(tap), static_cast<long long>(ch), found, want[at], slack);
        }
      }
    }
  }
};

template <class T>
void check_map(const Case& c, const T* x, const std::vector<const Backward<T>*>& operations,
               const std::vector<T>& dx) {
  const double factor = sizeof(T) == 4 ? 0x1p-10 : 0.0;
  for (int64_t p = 0; p < c.pixels(); ++p) {
    std::vector<double> want(static_cast<size_t>(c.channels)), size(want);
    double steps = 0.0;
    for (const Backward<T>* of : operations) {
      const int border = of->side / 2;
      for (int64_t k = 0; k < of->edges * c.channels; ++k) {
        if (!of->is_live(k / c.channels)) continue;
        for (int tap = 0; tap < of->side * of->side; ++tap) {
          // Which result read this pixel with the tap.
          const int64_t row = p / c.width % c.height - (tap / of->side - border);
          const int64_t column = p % c.width - (tap % of->side - border);
          steps += 1.0 / 8.0;
          if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
          const int64_t from = p - (tap / of->side - border) * c.width - tap % of->side + border;
          const double g = of->grad_at(from, k, c.channels);
          const auto first = static_cast<size_t>((k * of->side * of->side + tap) * c.channels);
          for (size_t ch = 0; ch < want.size(); ++ch) {
            const double term = g * Traits<T>::get(of->weight[first + ch]);
            want[ch] += term;
            size[ch] += std::fabs(term);
          }
        }
      }
    }
    for (size_t ch = 0; ch < want.size(); ++ch) {
      const size_t at = static_cast<size_t>(p) * want.size() + ch;
      if (Traits<T>::get(x[at]) <= 0.0) want[ch] = size[ch] = 0.0;
      const double found = Traits<T>::get(dx[at]);
      const double slack = size[ch] * (factor + steps * 2.0 * Traits<T>::unit) +
                           Traits<T>::store_unit * std::fabs(want[ch]);
      CHECK(std::fabs(found - want[ch]) <= slack, "%s: dx[%lld, %zu] = %.9g, not %.9g (+- %.2g)",
            describe(c, Traits<T>::dtype).c_str(), static_cast<long long>(p), ch, found, want[ch],
            slack);
    }
  }
}

template <class T>
void run_gradients(const Case& c, bool twice = false) {
  std::mt19937 random(static_cast<unsigned>(c.pixels() + 3 * c.channels));
  std::vector<T> x(draw<T>(c.pixels() * c.channels, 1.0, random));
  for (size_t i = 0; i < x.size(); i += 7) x[i] = Traits<T>::make(0.0);
  Backward<T> three(c, 3, c.three, c.dead_three, random), one(c, 1, c.one, c.dead_one, random);
  const NodeConvolveArgs args{Traits<T>::dtype, c.images, c.height, c.width, c.channels};
  const size_t bytes = snsoftmax::node_convolve_weights_workspace_cuda(args, c.three, c.one);
  const std::unique_ptr<unsigned char[]> workspace(new unsigned char[bytes]);
  const auto weights = [&] {
    std::memset(workspace.get(), 0xff, bytes);
    const char* const error = snsoftmax::node_convolve_weights_cuda(
        args, x.data(), three.arguments(), one.arguments(), three.grad_weight.data(),
        one.grad_weight.data(), workspace.get(), nullptr);
    CHECK(error == nullptr, "%s: %s", describe(c, args.dtype).c_str(), error);
  };
  weights();
  three.check_weights(c, x.data());
  one.check_weights(c, x.data());
  std::vector<T> dx(x.size(), Traits<T>::make(kUnwritten));
  const char* const error = snsoftmax::node_convolve_map_cuda(args, x.data(), three.arguments(),
                                                              one.arguments(), dx.data(), nullptr);
  CHECK(error == nullptr, "%s: %s", describe(c, args.dtype).c_str(), error);
  check_map<T>(c, x.data(), {&three, &one}, dx);
  if (!twice) return;
  const auto before = three.grad_weight;
  weights();
  CHECK(std::memcmp(before.data(), three.grad_weight.data(), before.size() * sizeof(T)) == 0,
        "%s: the gradients differ from call to call", describe(c, args.dtype).c_str());
}

void few_gradients() {
  Case c;  // a tile that reaches beyond the map, two images
  run_gradients<__nv_bfloat16>(c, /*twice=*/true);
  run_gradients<float>(c);
  c.dead_three = 0x2;  // edges that do not lie side by side
  c.dead_one = 0x7;
  run_gradients<__nv_bfloat16>(c);
  c = {1, 17, 40, 16, 1, 1};  // nine tiles, a slice each
  run_gradients<__nv_bfloat16>(c);
  c = {9, 8, 16, 16, 1, 32, 0, ~1u};  // two tiles in a slice
  run_gradients<float>(c);
  simt::device.shared_per_block = 64 << 10;  // one stage
  run_gradients<float>(c);
  simt::device = {};
  c = {9, 4, 4, 32, 2, 1};  // the largest halo
  run_gradients<__nv_bfloat16>(c);
  simt::device.multiprocessors = 1;  // 32 channels a block
  run_gradients<float>(c);
  c = {1, 4, 3, 64, 1, 1};  // channels in groups
  run_gradients<__nv_bfloat16>(c);
  simt::device = {};
  run_gradients<float>(c);
}

/// Launches and blocks at the size of a search, in which an image has eight tiles.
void check_gradient_launches() {
  simt::counters = {};
  run_gradients<__nv_bfloat16>({1, 32, 32, 16, 3, 3});
  CHECK(simt::counters.launches == 3, "%ld launches", simt::counters.launches);
  // Kernels: a block a tile, and 7,680 in packs of four, 32 of them a block. The map: a block a
  // tile.
  CHECK(simt::counters.blocks == 8 + 60 + 8, "%ld blocks", simt::counters.blocks);
}

void all_gradients() {
  few_gradients();
  check_gradient_launches();
  const Case cases[] = {
      {1, 1, 1, 16, 1, 0},         {9, 4, 4, 16, 0, 2},
      {2, 8, 8, 64, 1, 1},         {3, 8, 8, 16, 5, 2, 0x11},
      {1, 17, 33, 16, 1, 1},       {2, 3, 40, 32, 2, 3, 1, 6},
      {1, 6, 6, 64, 2, 2, 3, 2},   {1, 5, 5, 16, 32, 32, 0x7ffffffe, 5},
      {1, 16, 16, 32, 2, 1, 0, 1}, {5, 8, 16, 32, 32, 1, 0xfffffffe},
  };
  for (const Case& c : cases) {
    run_gradients<__nv_bfloat16>(c);
    simt::device.multiprocessors = 1;
    run_gradients<float>(c);
    simt::device = {};
  }
}

}  // namespace
