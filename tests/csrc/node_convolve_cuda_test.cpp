// The node's convolutions on the thread rig, against node_convolve.h's formulas in double. Maps and
// kernels lie at the end of their allocations, so that the address sanitizer sees a load beyond
// them. The argument "few" is for the slow sanitizers; with "maps" or "gradients" behind it, for
// mutants.
//
// Tolerances, of a value y: inputs are rounded to bfloat16 before both, for float the products take
// them rounded to TF32, 2^-11 of each factor. Sums are cut to float after every step of a product,
// 2^-23 of the sum of magnitudes each; then y is rounded to its type.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "map_types.h"
#include "node_convolve/node_convolve.h"
#include "node_convolve/node_convolve_math.h"
#include "node_convolve_cases.h"
#include "node_convolve_gradient_cases.h"

using namespace snsoftmax;

namespace {

/// One operation's kernels and what it gives.
template <class T>
struct Operation {
  int side, edges;
  std::vector<T> weight, y;
  std::vector<double> moments;
  std::unique_ptr<bool[]> live;

  Operation(const Case& c, int side_, int edges_, unsigned dead, std::mt19937& random)
      : side(side_),
        edges(edges_),
        weight(draw<T>(edges * c.channels * side * side * c.channels, 0.25, random)),
        y(static_cast<size_t>(c.pixels() * edges * c.channels), Traits<T>::make(kUnwritten)),
        moments(static_cast<size_t>(2 * edges * c.channels), kUnwritten) {
    if (dead == 0) return;
    live.reset(new bool[static_cast<size_t>(edges)]);
    for (int e = 0; e < edges; ++e) live[static_cast<size_t>(e)] = (dead >> e & 1u) == 0;
  }

  NodeConvolution arguments() {
    return {edges, weight.data(), live.get(), y.data(), moments.data()};
  }
  bool is_live(int64_t edge) const { return !live || live[static_cast<size_t>(edge)]; }

  void check(const Case& c, const T* x, bool tensor) const {
    const std::string name = describe(c, Traits<T>::dtype) + (side == 3 ? " 3x3" : " 1x1");
    const int64_t columns = edges * c.channels;
    const int border = side / 2;
    const double factor = tensor && sizeof(T) == 4 ? 0x1p-10 : 0.0;  // of two factors
    const double steps = static_cast<double>(side * side * c.channels) / (tensor ? 8 : 1);
    std::vector<double> sums(static_cast<size_t>(columns)), squares(sums);
    for (int64_t p = 0; p < c.pixels(); ++p) {
      const int64_t column = p % c.width, row = p / c.width % c.height;
      for (int64_t k = 0; k < columns; ++k) {
        const double found = Traits<T>::get(y[static_cast<size_t>(p * columns + k)]);
        if (!is_live(k / c.channels)) {
          CHECK(found == kUnwritten, "%s: y of an edge that is not live is written", name.c_str());
          continue;
        }
        double want = 0.0, size = 0.0;
        for (int i = 0; i < side; ++i) {
          for (int j = 0; j < side; ++j) {
            const int64_t r = row + i - border, s = column + j - border;
            if (r < 0 || r >= c.height || s < 0 || s >= c.width) continue;
            const T* const from = x + (p + (i - border) * c.width + j - border) * c.channels;
            const T* const w = weight.data() + ((k * side + i) * side + j) * c.channels;
            for (int64_t ch = 0; ch < c.channels; ++ch) {
              const double term = std::max(Traits<T>::get(from[ch]), 0.0) * Traits<T>::get(w[ch]);
              want += term;
              size += std::fabs(term);
            }
          }
        }
        const double unit = 2.0 * Traits<T>::unit;
        const double slack =
            size * (factor + steps * unit) + Traits<T>::store_unit * std::fabs(want);
        CHECK(std::fabs(found - want) <= slack, "%s: y[%lld, %lld] = %.9g, not %.9g (+- %.2g)",
              name.c_str(), static_cast<long long>(p), static_cast<long long>(k), found, want,
              slack);
        sums[static_cast<size_t>(k)] += found;
      }
    }
    // Of what is stored, so that only the summation counts.
    const double n = static_cast<double>(c.pixels());
    for (int64_t i = 0; i < c.pixels() * columns; ++i) {
      const auto k = static_cast<size_t>(i % columns);
      squares[k] += std::pow(Traits<T>::get(y[static_cast<size_t>(i)]) - sums[k] / n, 2);
    }
    for (int64_t k = 0; k < columns; ++k) {
      const auto at = static_cast<size_t>(k);
      const bool alive = is_live(k / c.channels);
      const double want = alive ? sums[at] / n : 0.0, spread = alive ? squares[at] / n : -1.0 / n;
      const double* const found = moments.data() + k + k / c.channels * c.channels;
      const double mean = found[0], var = found[c.channels] / n;
      const double slack = 64.0 * Traits<T>::unit;
      const double size = std::sqrt(want * want + std::fabs(spread));
      CHECK(std::fabs(mean - want) <= slack * size, "%s: mean[%lld] = %.9g, not %.9g", name.c_str(),
            static_cast<long long>(k), mean, want);
      CHECK(std::fabs(var - spread) <= slack * (std::fabs(spread) + slack * size * size),
            "%s: var[%lld] = %.9g, not %.9g", name.c_str(), static_cast<long long>(k), var, spread);
    }
  }
};

/// `tensor`: whether tensor cores must have computed it.
template <class T>
void run(const Case& c, bool tensor, double shift = 0.0, bool twice = false) {
  std::mt19937 random(static_cast<unsigned>(c.pixels() + c.channels));
  std::vector<T> x(draw<T>(c.offset, 1.0, random));
  for (int64_t i = 0; i < c.pixels() * c.channels; ++i) {
    x.push_back(Traits<T>::make(shift + std::normal_distribution<double>()(random)));
  }
  Operation<T> three(c, 3, c.three, c.dead_three, random), one(c, 1, c.one, c.dead_one, random);
  const NodeConvolveArgs args{Traits<T>::dtype, c.images, c.height, c.width, c.channels};
  const size_t bytes = node_convolve_workspace_cuda(args, c.three + c.one);
  const std::unique_ptr<unsigned char[]> workspace(new unsigned char[bytes]);
  std::memset(workspace.get(), 0xff, bytes);
  const auto call = [&] {
    const char* const error = node_convolve_cuda(args, x.data() + c.offset, three.arguments(),
                                                 one.arguments(), workspace.get(), nullptr);
    CHECK(error == nullptr, "%s: %s", describe(c, args.dtype).c_str(), error);
  };
  call();
  three.check(c, x.data() + c.offset, tensor);
  one.check(c, x.data() + c.offset, tensor);
  if (!twice) return;
  const auto before = three.moments;
  call();
  CHECK(std::memcmp(before.data(), three.moments.data(), before.size() * sizeof before[0]) == 0,
        "%s: the moments differ from call to call", describe(c, args.dtype).c_str());
}

void few() {
  Case c;  // a tile that reaches beyond the map, two images
  run<__nv_bfloat16>(c, true, 0.0, /*twice=*/true);
  run<float>(c, true);
  c.dead_three = 0x2;  // a pass over edges that do not lie side by side
  c.dead_one = 0x7;
  run<__nv_bfloat16>(c, true);
  c = {1, 9, 18, 16, 1, 1};  // several tiles
  run<__nv_bfloat16>(c, true);
  c = {1, 3, 5, 32, 3, 1};  // three passes, one of them not full, in two blocks
  simt::device.multiprocessors = 1;
  run<__nv_bfloat16>(c, true);
  simt::device = {};
  c = {1, 4, 3, 64, 1, 1};  // a chunk a tap
  run<__nv_bfloat16>(c, true);
  c = {1, 3, 3, 40, 1, 2};  // plain, channels in two parts
  run<__half>(c, false);
  c = {1, 2, 2, 16, 1, 1};
  c.offset = 1;  // no copies of 16 bytes
  run<float>(c, false);
}

void all() {
  few();
  const Case cases[] = {
      {1, 1, 1, 16, 1, 0},         {9, 4, 4, 16, 0, 2},
      {2, 8, 8, 64, 1, 1},         {3, 8, 8, 16, 5, 2, 0x11},
      {1, 17, 33, 16, 1, 1},       {2, 3, 40, 32, 2, 3, 1, 6},
      {1, 6, 6, 64, 2, 2, 3, 2},   {1, 5, 5, 16, 32, 32, 0x7ffffffe, 5},
      {1, 16, 16, 32, 2, 1, 0, 1},
  };
  for (const Case& c : cases) {
    run<__nv_bfloat16>(c, true);
    simt::device.multiprocessors = 1;  // a block has several passes
    run<float>(c, true);
    simt::device = {};
  }
  Case c;
  run<__nv_bfloat16>(c, true, 30.0);  // means far from zero
  run<float>(c, true, 30.0);
  for (const int64_t channels : {1, 5, 16, 40}) {
    Case plain{2, 5, 9, channels, 2, 1, 0, 0};
    run<double>(plain, false, 1.0);
    run<__half>(plain, false);
    plain.dead_three = 1;
    run<double>(plain, false);
    if (channels == 16) continue;
    run<float>(plain, false);
    run<__nv_bfloat16>(plain, false);
  }
  c.offset = 1;
  run<__nv_bfloat16>(c, false);
  c.offset = 4;
  run<float>(c, true);
  c = {1, 4, 4, 64, 1, 1};  // too little shared memory
  simt::device.shared_per_block = 100 << 10;
  run<float>(c, false);
  run<__nv_bfloat16>(c, true);
  simt::device.shared_per_block = 48 << 10;
  run<__nv_bfloat16>(c, false);
  simt::device = {};
}

/// Every pixel of a map belongs to one tile, and its window to the tile's halo.
void check_tiles() {
  for (const int images : {1, 2, 5, 9}) {
    for (const int height : {1, 3, 8, 17, 32}) {
      for (const int width : {1, 4, 7, 8, 33}) {
        const Tiles tiles = tiles_of(images, height, width);
        std::vector<int> seen(static_cast<size_t>(images * height * width));
        CHECK(tiles.halo() <= kMostHalo, "a halo of %d pixels", tiles.halo());
        for (int tile = 0; tile < tiles.count(); ++tile) {
          const Tiles::Corner at = tiles.corner(tile);
          int covered = 0;
          for (int m = 0; m < kTilePixels; ++m) {
            const int pixel = tiles.pixel(at, m);
            const int middle = tiles.source(at, tiles.window(m) + tiles.halo_columns() + 1);
            CHECK(pixel == middle, "pixel %d has its middle tap at %d", pixel, middle);
            if (pixel < 0) continue;
            ++covered;
            ++seen[static_cast<size_t>(pixel)];
            CHECK(tiles.window(m) + 2 * tiles.halo_columns() + 2 < tiles.halo(),
                  "a halo ends early");
          }
          CHECK(covered == tiles.covered(tile), "a tile covers %d pixels, not %d", covered,
                tiles.covered(tile));
        }
        for (const int times : seen) CHECK(times == 1, "a pixel is in %d tiles", times);
      }
    }
  }
  CHECK(tiles_of(64, 32, 32).count() == 512 && tiles_of(64, 8, 8).count() == 32, "wasteful tiles");
}

/// Launches and blocks at the size of a search, in which an image has eight tiles.
void check_launches() {
  simt::counters = {};
  run<__nv_bfloat16>({1, 32, 32, 16, 3, 3}, true);
  CHECK(simt::counters.launches == 2, "%ld launches", simt::counters.launches);
  // Two passes a tile, and 96 columns in merges of 16.
  CHECK(simt::counters.blocks == 8 * 2 + 6, "%ld blocks", simt::counters.blocks);
}

}  // namespace

int main(int count, char** words) {
  check_tiles();
  if (count > 1 && std::string(words[1]) == "few") {
    const std::string part = count > 2 ? words[2] : "";
    if (part != "gradients") few();
    if (part != "maps") few_gradients();
  } else {
    all();
    all_gradients();
    check_launches();
  }
  NodeConvolveArgs args{DType::kFloat32, 1, 4, 4, 16};
  float nothing = 0;
  double moments = 0;
  const NodeConvolution many{33, &nothing, nullptr, &nothing, &moments};
  CHECK(node_convolve_cuda(args, &nothing, many, {}, &nothing, nullptr) != nullptr,
        "33 edges were taken");
  args.images = int64_t{1} << 32;
  const NodeConvolution single{1, &nothing, nullptr, &nothing, &moments};
  CHECK(node_convolve_cuda(args, &nothing, single, {}, &nothing, nullptr) != nullptr,
        "more pixels than an int counts were taken");
  const NodeConvolveGradients of{1, nullptr, &nothing, &nothing};
  CHECK(node_convolve_map_cuda(args, &nothing, of, of, &nothing, nullptr) != nullptr,
        "a gradient with more pixels than an int counts was taken");
  args.images = 1;
  args.channels = 24;
  CHECK(node_convolve_map_cuda(args, nullptr, {}, {}, nullptr, nullptr) != nullptr,
        "a gradient of 24 channels was taken");
  CHECK(node_convolve_weights_workspace_cuda(args, 1, 1) == 0, "a workspace for 24 channels");
  args.channels = 16;
  args.dtype = DType::kFloat64;
  CHECK(node_convolve_map_cuda(args, nullptr, {}, {}, nullptr, nullptr) != nullptr,
        "a gradient of doubles was taken");
  args.dtype = DType::kFloat32;
  const auto* const odd = reinterpret_cast<const unsigned char*>(&nothing) + 1;
  CHECK(node_convolve_map_cuda(args, odd, {}, {}, nullptr, nullptr) != nullptr,
        "a map that does not begin on 16 bytes was taken");
  simt::device.shared_per_block = 16 << 10;
  CHECK(node_convolve_map_cuda(args, nullptr, {}, {}, nullptr, nullptr) != nullptr,
        "a block got more shared memory than there is");
  simt::device = {};
  args.images = 0;
  CHECK(node_convolve_cuda(args, nullptr, single, {}, nullptr, nullptr) == nullptr,
        "no images failed");
  if (failures == 0) std::printf("node_convolve: all cases pass\n");
  return failures;
}
