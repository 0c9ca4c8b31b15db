// The CUDA kernels of what leaves a node, on the thread rig, against the formulas in
// rectify_average.h in double. The argument "few" is for the slow sanitizers.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "map_types.h"
#include "rectify_average/rectify_average.h"

using namespace snsoftmax;

namespace {

struct Case {
  int64_t images = 2;
  int64_t height = 5;
  int64_t width = 3;
  int64_t channels = 8;
  int offset = 0;  // elements from a 16-byte boundary to the maps
  bool rectify = true;
  bool average = true;
  int of_identity = 2;
  int of_rectified = 2;
  int of_averaged = 2;

  int64_t size() const { return images * height * width * channels; }
};

std::string describe(const Case& c, DType dtype) {
  char text[256];
  std::snprintf(text, sizeof text,
                "dtype %d [%lld, %lld, %lld, %lld] offset %d rectify %d average %d readers %d %d "
                "%d",
                static_cast<int>(dtype), static_cast<long long>(c.images),
                static_cast<long long>(c.height), static_cast<long long>(c.width),
                static_cast<long long>(c.channels), c.offset, c.rectify, c.average, c.of_identity,
                c.of_rectified, c.of_averaged);
  return text;
}

/// A map that ends where its memory ends, and whose values before the offset must stay.
template <class T>
class Map {
 public:
  Map(const Case& c, std::mt19937& random)
      : offset_(c.offset), memory_(static_cast<size_t>(c.offset + c.size())) {
    std::normal_distribution<double> normal;
    for (T& x : memory_) x = Traits<T>::make(normal(random));
    before_ = memory_;
  }

  T* data() { return memory_.data() + offset_; }
  double operator[](int64_t i) const {
    return Traits<T>::get(memory_[static_cast<size_t>(offset_ + i)]);
  }
  void clamp() {
    for (T& x : memory_) x = Traits<T>::make(std::max(Traits<T>::get(x), 0.0));
  }
  bool untouched_before() const {
    return offset_ == 0 || std::memcmp(memory_.data(), before_.data(),
                                       static_cast<size_t>(offset_) * sizeof(T)) == 0;
  }

 private:
  int64_t offset_;
  std::vector<T> memory_;
  std::vector<T> before_;
};

template <class T>
using Maps = std::vector<std::unique_ptr<Map<T>>>;

/// Weights of every type, on the host and the device. Eighths, which each type has.
struct Weights {
  std::vector<double> values;
  std::vector<std::vector<unsigned char>> memory;
  std::vector<Weight> weights;

  void add(double value) {
    const auto kind = weights.size() % 5;
    Weight weight;
    const auto hold = [&](DType dtype, auto typed) {
      memory.emplace_back(sizeof typed);
      std::memcpy(memory.back().data(), &typed, sizeof typed);
      weight = {memory.back().data(), dtype, -1e30};
    };
    if (kind == 0) hold(DType::kFloat32, static_cast<float>(value));
    if (kind == 1) hold(DType::kFloat64, value);
    if (kind == 2) hold(DType::kBFloat16, __float2bfloat16_rn(static_cast<float>(value)));
    if (kind == 3) hold(DType::kFloat16, __float2half_rn(static_cast<float>(value)));
    if (kind == 4) weight.value = value;
    values.push_back(value);
    weights.push_back(weight);
  }
};

template <class T>
struct Group {
  Maps<T> maps;
  std::vector<const void*> pointers;
  Weights weights;

  Group(const Case& c, int count, int first, std::mt19937& random) {
    for (int i = 0; i < count; ++i) {
      maps.push_back(std::make_unique<Map<T>>(c, random));
      pointers.push_back(maps.back()->data());
      weights.add(0.125 * (first + 3 * i % 7) - 0.5);
    }
  }
  Readers readers(bool weighted = true) const {
    return {pointers.data(), weighted ? weights.weights.data() : nullptr,
            static_cast<int64_t>(pointers.size())};
  }
};

/// f(neighbour, pixels in the window around it) for each pixel in the window around i.
template <class F>
void each_neighbour(const Case& c, int64_t i, const F& f) {
  const int64_t line = c.width * c.channels;
  const int64_t row = i / line % c.height;
  const int64_t column = i / c.channels % c.width;
  const auto covered = [](int64_t at, int64_t size) {
    return std::min(at + 1, size - 1) - std::max<int64_t>(at - 1, 0) + 1;
  };
  for (int64_t r = std::max<int64_t>(row - 1, 0); r <= std::min(row + 1, c.height - 1); ++r) {
    for (int64_t k = std::max<int64_t>(column - 1, 0); k <= std::min(column + 1, c.width - 1);
         ++k) {
      const int64_t count = covered(r, c.height) * covered(k, c.width);
      f(i + (r - row) * line + (k - column) * c.channels, static_cast<double>(count));
    }
  }
}

template <class T>
void forward(const Case& c) {
  using X = Traits<T>;
  const std::string name = describe(c, X::dtype);
  std::mt19937 random(static_cast<unsigned>(c.size()));
  const RowsArgs args{X::dtype, c.height, c.width, c.channels};
  Map<T> x(c, random), rectified(c, random), averaged(c, random);
  const long before = simt::counters.launches;
  const char* const error =
      rectify_average_cuda(args, c.images, x.data(), c.rectify ? rectified.data() : nullptr,
                           c.average ? averaged.data() : nullptr, nullptr);
  CHECK(error == nullptr, "%s: %s", name.c_str(), error);
  CHECK(simt::counters.launches - before <= 1, "%s: several launches", name.c_str());
  for (int64_t i = 0; i < c.size(); ++i) {
    if (c.rectify) {
      CHECK(rectified[i] == std::max(x[i], 0.0), "%s: rectified[%lld]", name.c_str(),
            static_cast<long long>(i));
    }
    if (!c.average) continue;
    double sum = 0.0, count = 0.0, size = 0.0;
    each_neighbour(c, i,
                   [&](int64_t j, double) { sum += x[j], size += std::fabs(x[j]), count += 1.0; });
    const double want = sum / count;
    CHECK(std::fabs(averaged[i] - want) <=
              8.0 * X::unit * size / count + X::store_unit * std::fabs(want),
          "%s: averaged[%lld] = %.9g, not %.9g", name.c_str(), static_cast<long long>(i),
          averaged[i], want);
  }
  CHECK(rectified.untouched_before() && averaged.untouched_before(), "%s: wrote before an output",
        name.c_str());
}

template <class T>
void backward(const Case& c) {
  using X = Traits<T>;
  const std::string name = describe(c, X::dtype);
  std::mt19937 random(static_cast<unsigned>(c.size() + 1));
  const RowsArgs args{X::dtype, c.height, c.width, c.channels};
  Map<T> rectified(c, random), grad(c, random);
  rectified.clamp();
  const Group<T> of_identity(c, c.of_identity, 1, random);
  const Group<T> of_rectified(c, c.of_rectified, 2, random);
  const Group<T> of_averaged(c, c.of_averaged, 6, random);
  const long before = simt::counters.launches;
  const char* const error = rectify_average_backward_cuda(
      args, c.images, c.of_rectified > 0 ? rectified.data() : nullptr, of_identity.readers(),
      of_rectified.readers(/*weighted=*/false), of_averaged.readers(), grad.data(), nullptr);
  CHECK(error == nullptr, "%s: %s", name.c_str(), error);
  const int readers = c.of_identity + c.of_rectified + c.of_averaged;
  const int launches =
      std::max(1, static_cast<int>((readers + kMaxReadersCuda - 1) / kMaxReadersCuda));
  CHECK(simt::counters.launches - before == (c.size() > 0 ? launches : 0), "%s: %ld launches",
        name.c_str(), simt::counters.launches - before);
  for (int64_t i = 0; i < c.size(); ++i) {
    double want = 0.0, size = 0.0;
    const auto add = [&](double term) { want += term, size += std::fabs(term); };
    for (int n = 0; n < c.of_identity; ++n) {
      add(of_identity.weights.values[n] * (*of_identity.maps[n])[i]);
    }
    for (int n = 0; n < c.of_rectified; ++n) {
      if (rectified[i] > 0.0) add((*of_rectified.maps[n])[i]);
    }
    for (int n = 0; n < c.of_averaged; ++n) {
      each_neighbour(c, i, [&](int64_t j, double count) {
        add(of_averaged.weights.values[n] * (*of_averaged.maps[n])[j] / count);
      });
    }
    const double slack = 8.0 * X::unit + (launches - 1) * X::store_unit;
    CHECK(std::fabs(grad[i] - want) <= slack * size + X::store_unit * std::fabs(want),
          "%s: grad[%lld] = %.9g, not %.9g", name.c_str(), static_cast<long long>(i), grad[i],
          want);
  }
  CHECK(grad.untouched_before(), "%s: wrote before the gradient", name.c_str());
}

template <class T>
void run(const Case& c) {
  forward<T>(c);
  backward<T>(c);
}

void run_all_types(const Case& c) {
  run<float>(c);
  run<double>(c);
  run<__nv_bfloat16>(c);
}

void few() {
  run_all_types({});
  Case c;  // several blocks an image, the last one partial
  c.height = 9;
  c.width = 21;
  c.channels = 12;
  run<float>(c);
  c.width = 4;
  c.offset = 1;  // element by element
  run<float>(c);
  c.channels = 5;
  run<__nv_bfloat16>(c);
  Case many;  // more readers than a launch takes, across the groups' borders
  many.height = many.width = 2;
  many.of_identity = 63;
  many.of_averaged = 66;
  many.of_rectified = 3;
  run_all_types(many);
}

void all() {
  few();
  const int64_t sizes[] = {1, 2, 3, 5, 8};
  const int64_t channels[] = {1, 3, 4, 7, 8, 16};
  int turn = 0;
  for (const int64_t height : sizes) {
    for (const int64_t width : sizes) {
      for (const int offset : {0, 1}) {
        Case c;
        c.height = height;
        c.width = width;
        c.channels = channels[turn++ % 6];
        c.offset = offset;
        run_all_types(c);
      }
    }
  }
  for (const int64_t each : channels) {
    for (const int offset : {0, 1, 4}) {
      Case c;
      c.channels = each;
      c.offset = offset;
      run_all_types(c);
    }
  }
  for (int bits = 0; bits < 32; ++bits) {
    Case c;
    c.rectify = (bits & 1) != 0;
    c.average = (bits & 2) != 0;
    c.of_identity = (bits & 4) != 0 ? 3 : 0;
    c.of_rectified = (bits & 8) != 0 ? 5 : 0;
    c.of_averaged = (bits & 16) != 0 ? 3 : 0;
    run_all_types(c);
  }
  for (const int readers : {1, 4, 64, 65, 128}) {
    for (int group = 0; group < 3; ++group) {
      Case c;
      c.height = c.width = 3;
      c.of_identity = group == 0 ? readers : 0;
      c.of_averaged = group == 1 ? readers : 0;
      c.of_rectified = group == 2 ? readers : 0;
      run<float>(c);
    }
  }
  Case none;
  none.images = 0;
  run<float>(none);
}

}  // namespace

int main(int count, char** words) {
  if (count > 1 && std::string(words[1]) == "few") {
    few();
  } else {
    all();
  }
  const RowsArgs half{DType::kFloat16, 1, 1, 1};
  CHECK(rectify_average_cuda(half, 1, &half, nullptr, const_cast<RowsArgs*>(&half), nullptr) !=
            nullptr,
        "float16 was not refused");
  if (failures == 0) std::printf("rectify_average: all cases pass\n");
  return failures;
}
