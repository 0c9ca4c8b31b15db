// The CPU kernels of what leaves a node, of the capability that SNSOFTMAX_CPU_CAPABILITY names,
// against the formulas in rectify_average.h in double; rows in three chunks. Maps lie at the end of
// their allocations, so that the address sanitizer sees a load beyond them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "map_types.h"
#include "rectify_average/rectify_average.h"

using namespace snsoftmax;

namespace {

constexpr int64_t kChunks = 3;

struct Case {
  int64_t images, height, width, channels;
  int of_identity, of_rectified, of_averaged;

  int64_t size() const { return images * height * width * channels; }
};

template <class T>
using Map = std::vector<T>;

template <class T>
Map<T> draw(const Case& c, std::mt19937& random) {
  std::normal_distribution<double> normal;
  Map<T> map(static_cast<size_t>(c.size()));
  for (T& x : map) x = Traits<T>::make(normal(random));
  return map;
}

template <class T>
struct Group {
  std::vector<Map<T>> maps;
  std::vector<const void*> pointers;
  std::vector<Weight> weights;

  Group(const Case& c, int count, std::mt19937& random) {
    for (int i = 0; i < count; ++i) {
      maps.push_back(draw<T>(c, random));
      Weight weight;
      weight.value = 0.125 * (3 * i % 7) - 0.25;
      weights.push_back(weight);
    }
    for (const auto& map : maps) pointers.push_back(map.data());
  }
  Readers readers(bool weighted) const {
    return {pointers.data(), weighted ? weights.data() : nullptr,
            static_cast<int64_t>(pointers.size())};
  }
  double sum(size_t i, bool weighted) const {
    double total = 0.0;
    for (size_t m = 0; m < maps.size(); ++m) {
      total += (weighted ? weights[m].value : 1.0) * Traits<T>::get(maps[m][i]);
    }
    return total;
  }
};

/// f(neighbour, pixels in the window around it) for each pixel in the window around i.
template <class F>
void each_neighbour(const Case& c, int64_t i, const F& f) {
  const auto covered = [](int64_t at, int64_t size) {
    return std::min(at + 1, size - 1) - std::max<int64_t>(at - 1, 0) + 1;
  };
  const int64_t column = i / c.channels % c.width;
  const int64_t row = i / c.channels / c.width % c.height;
  for (int64_t r = std::max<int64_t>(row - 1, 0); r <= std::min(row + 1, c.height - 1); ++r) {
    for (int64_t k = std::max<int64_t>(column - 1, 0); k <= std::min(column + 1, c.width - 1);
         ++k) {
      const int64_t at = i + ((r - row) * c.width + k - column) * c.channels;
      f(static_cast<size_t>(at), static_cast<double>(covered(r, c.height) * covered(k, c.width)));
    }
  }
}

template <class T>
void compare(const char* what, const Map<T>& found, const std::vector<double>& expected,
             const Case& c) {
  double largest = 0.0;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  double error = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    error = std::max(error, std::abs(Traits<T>::get(found[i]) - expected[i]));
  }
  CHECK(error <= 4 * Traits<T>::store_unit * largest,
        "%s of dtype %d is off by %.1e: [%d, %d, %d, %d], readers %d %d %d", what,
        static_cast<int>(Traits<T>::dtype), error, static_cast<int>(c.images),
        static_cast<int>(c.height), static_cast<int>(c.width), static_cast<int>(c.channels),
        c.of_identity, c.of_rectified, c.of_averaged);
}

template <class T>
void run(const Case& c) {
  std::mt19937 random(1);
  const RowsArgs args{Traits<T>::dtype, c.height, c.width, c.channels};
  const Map<T> x = draw<T>(c, random);
  const Group<T> identity(c, c.of_identity, random);
  const Group<T> relu(c, c.of_rectified, random);
  const Group<T> average(c, c.of_averaged, random);
  Map<T> rectified(x.size());
  Map<T> averaged(x.size());
  Map<T> grad(x.size());
  const int64_t rows = c.images * c.height;
  const auto each_chunk = [&](const auto& f) {
    for (int64_t i = 0; i < kChunks; ++i) f(rows * i / kChunks, rows * (i + 1) / kChunks);
  };
  each_chunk([&](int64_t begin, int64_t end) {
    rectify_average_cpu(args, x.data(), rectified.data(), averaged.data(), begin, end);
  });
  each_chunk([&](int64_t begin, int64_t end) {
    rectify_average_backward_cpu(args, c.of_rectified ? rectified.data() : nullptr,
                                 identity.readers(true), relu.readers(false), average.readers(true),
                                 grad.data(), begin, end);
  });

  std::vector<double> of_relu(x.size());
  std::vector<double> of_average(x.size());
  std::vector<double> of_grad(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    of_relu[i] = std::max(Traits<T>::get(x[i]), 0.0);
    of_grad[i] = identity.sum(i, true) + (of_relu[i] > 0 ? relu.sum(i, false) : 0.0);
    double sum = 0.0;
    double count = 0.0;
    each_neighbour(c, static_cast<int64_t>(i), [&](size_t at, double pixels) {
      sum += Traits<T>::get(x[at]);
      count += 1.0;
      of_grad[i] += average.sum(at, true) / pixels;
    });
    of_average[i] = sum / count;
  }
  compare("the ReLU", rectified, of_relu, c);
  compare("the average", averaged, of_average, c);
  compare("the gradient", grad, of_grad, c);
}

}  // namespace

int main() {
  const Case cases[] = {{2, 5, 3, 8, 2, 2, 2},  {1, 1, 1, 3, 1, 0, 1},  {3, 1, 7, 16, 0, 3, 1},
                        {2, 8, 8, 37, 1, 1, 3}, {1, 9, 2, 70, 0, 0, 2}, {2, 4, 6, 16, 3, 1, 0}};
  for (const Case& c : cases) {
    run<float>(c);
    run<double>(c);
    run<__nv_bfloat16>(c);
  }
  return failures;
}
