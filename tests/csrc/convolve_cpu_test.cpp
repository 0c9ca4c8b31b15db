// The convolutions' CPU kernels, of both strides, of the capability that SNSOFTMAX_CPU_CAPABILITY
// names, against sums over taps in double; tiles in three chunks. Maps and kernels lie at the end
// of their allocations, so that the address sanitizer sees a load beyond them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.h"
#include "convolve/convolve.h"
#include "map_types.h"

using namespace snsoftmax;

namespace {

constexpr int64_t kChunks = 3;

template <class T>
using Op = typename Traits<T>::Op;
template <class T>
using Maps = std::vector<std::vector<T>>;

template <class T>
struct Data {
  ConvolveArgs args;
  std::vector<T> x;
  Maps<T> grads;
  Maps<Op<T>> weights;

  explicit Data(const ConvolveArgs& a) : args(a) {
    args.dtype = Traits<T>::dtype;
    x = draw<T>(args.images * args.height * args.width * args.inputs);
    const int64_t results = args.images * args.strided(args.height) * args.strided(args.width);
    for (int64_t e = 0; e < args.edges; ++e) {
      weights.push_back(draw<Op<T>>(args.outputs * args.kernel * args.kernel * args.inputs));
      grads.push_back(draw<T>(results * args.outputs));
    }
  }

 private:
  std::mt19937 generator{1};
  std::normal_distribution<double> normal;

  template <class V>
  std::vector<V> draw(int64_t n) {
    std::vector<V> values(static_cast<size_t>(n));
    for (V& v : values) v = Traits<V>::make(normal(generator));
    return values;
  }
};

template <class T, class P>
std::vector<P> pointers(Maps<T>& maps) {
  std::vector<P> result;
  for (auto& map : maps) result.push_back(map.data());
  return result;
}

/// f(chunk, begin, end)
template <class F>
void each_chunk(int64_t count, const F& f) {
  for (int64_t i = 0; i < kChunks; ++i) f(i, count * i / kChunks, count * (i + 1) / kChunks);
}

template <class T>
struct Results {
  Maps<T> y;
  Maps<Op<T>> grad_weights;
  std::vector<T> grad_map;  ///< where `adds` is taken twice itself: made, then added to

  template <class U>
  explicit Results(const Data<U>& data)
      : y(data.grads.size(), std::vector<T>(data.grads[0].size())),
        grad_weights(data.weights.size(), std::vector<Op<T>>(data.weights[0].size())),
        grad_map(data.x.size()) {}
};

bool takes_adds(const ConvolveArgs& args) { return args.kernel == 1 && args.stride == 1; }

template <class T>
Results<T> kernels(Data<T>& data) {
  const ConvolveArgs& args = data.args;
  Results<T> result(data);
  const auto weights = pointers<Op<T>, const void*>(data.weights);
  const auto grads = pointers<T, const void*>(data.grads);
  const auto values = static_cast<size_t>(args.kernel_values());
  std::vector<T> packed(values);
  const auto pack = [&](bool backward) {
    each_chunk(args.edges * args.outputs / kConvolveChannels,
               [&](int64_t, int64_t begin, int64_t end) {
                 convolve_pack_cpu(args, weights.data(), backward, packed.data(), begin, end);
               });
  };
  pack(false);
  each_chunk(args.tiles(), [&](int64_t, int64_t begin, int64_t end) {
    convolve_forward_cpu(args, data.x.data(), packed.data(), pointers<T, void*>(result.y).data(),
                         begin, end);
  });
  pack(true);
  each_chunk(args.tiles(), [&](int64_t, int64_t begin, int64_t end) {
    convolve_backward_map_cpu(args, grads.data(), packed.data(), result.grad_map.data(), begin,
                              end);
  });
  if (takes_adds(args)) {
    ConvolveArgs once_more = args;
    once_more.adds = true;
    each_chunk(args.tiles(), [&](int64_t, int64_t begin, int64_t end) {
      convolve_backward_map_cpu(once_more, grads.data(), packed.data(), result.grad_map.data(),
                                begin, end);
    });
  }
  std::vector<Op<T>> sums(kChunks * values);
  each_chunk(args.tiles(), [&](int64_t i, int64_t begin, int64_t end) {
    convolve_backward_weight_cpu(args, grads.data(), data.x.data(),
                                 sums.data() + i * args.kernel_values(), begin, end);
  });
  each_chunk(args.inputs, [&](int64_t, int64_t begin, int64_t end) {
    convolve_merge_weight_cpu(args, sums.data(), kChunks,
                              pointers<Op<T>, void*>(result.grad_weights).data(), begin, end);
  });
  return result;
}

template <class T>
Results<double> taps(const Data<T>& data) {
  const ConvolveArgs& a = data.args;
  Results<double> result(data);
  const int64_t k2 = a.kernel / 2;
  const int64_t down = a.strided(a.height), across = a.strided(a.width);
  for (int64_t e = 0; e < a.edges; ++e) {
    const auto edge = static_cast<size_t>(e);
    const auto& w = data.weights[edge];
    for (int64_t at = 0; at < a.images * down * across * a.kernel * a.kernel; ++at) {
      const int64_t q = at % a.kernel, p = at / a.kernel % a.kernel, out = at / a.kernel / a.kernel;
      const int64_t n = out / across / down;
      const int64_t y = out / across % down * a.stride + p - k2,
                    x = out % across * a.stride + q - k2;
      if (y < 0 || y >= a.height || x < 0 || x >= a.width) continue;
      for (int64_t k = 0; k < a.outputs; ++k) {
        for (int64_t c = 0; c < a.inputs; ++c) {
          const auto in = static_cast<size_t>(((n * a.height + y) * a.width + x) * a.inputs + c);
          const auto tap = static_cast<size_t>(((k * a.kernel + p) * a.kernel + q) * a.inputs + c);
          const auto to = static_cast<size_t>(out * a.outputs + k);
          const double g = Traits<T>::get(data.grads[edge][to]);
          const double d = Traits<T>::get(data.x[in]);
          result.y[edge][to] += d * w[tap];
          result.grad_map[in] += (takes_adds(a) ? 2 : 1) * g * w[tap];
          result.grad_weights[edge][tap] += g * d;
        }
      }
    }
  }
  return result;
}

/// `V` is the type of what is compared, `T` that of the maps.
template <class T, class V>
void compare(const char* what, const std::vector<V>& found, const std::vector<double>& expected,
             const ConvolveArgs& a) {
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    error += std::pow(Traits<V>::get(found[i]) - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  const double relative = std::sqrt(error / norm);
  // bfloat16: a rounding counts 2^-8 at most; the kernel's and the result's are seen, and in
  // 3x3 convolutions those of the transformed tiles, whose sums are 1.7 times as large.
  double tolerance = sizeof(V) == 8 ? 1e-14 : 2e-6;
  if (sizeof(V) == 2) tolerance = 5e-3;
  if (sizeof(T) == 2 && a.kernel == 3) tolerance = 8e-3;
  CHECK(relative < tolerance,
        "%s of maps of %d bytes deviates by %.1e: kernel %d, stride %d, %dx%dx%d pixels, %d -> %d "
        "channels, %d edges",
        what, static_cast<int>(sizeof(T)), relative, static_cast<int>(a.kernel),
        static_cast<int>(a.stride), static_cast<int>(a.images), static_cast<int>(a.height),
        static_cast<int>(a.width), static_cast<int>(a.inputs), static_cast<int>(a.outputs),
        static_cast<int>(a.edges));
}

template <class T>
void run(const ConvolveArgs& args) {
  Data<T> data(args);
  const Results<T> found = kernels(data);
  const Results<double> expected = taps(data);
  for (size_t e = 0; e < found.y.size(); ++e) {
    compare<T>("y", found.y[e], expected.y[e], args);
    compare<T>("the gradient of a weight", found.grad_weights[e], expected.grad_weights[e], args);
  }
  compare<T>("the gradient of the map", found.grad_map, expected.grad_map, args);
}

}  // namespace

int main() {
  // images, height, width, inputs, outputs, edges: odd sizes, tiles at every border, blocks that
  // are not full, one to five registers of columns
  const int64_t cases[][6] = {{2, 8, 8, 16, 16, 1}, {3, 7, 5, 16, 32, 2},  {2, 5, 9, 32, 16, 3},
                              {1, 1, 1, 16, 16, 1}, {1, 2, 3, 80, 16, 1},  {5, 4, 4, 16, 80, 1},
                              {1, 3, 1, 16, 16, 5}, {1, 12, 14, 48, 48, 1}};
  for (const auto& c : cases) {
    for (const int64_t both : {1, 2, 3, 6}) {  // kernel times stride
      ConvolveArgs args;
      args.images = c[0];
      args.height = c[1];
      args.width = c[2];
      args.inputs = c[3];
      args.outputs = c[4];
      args.edges = c[5];
      args.kernel = both % 3 == 0 ? 3 : 1;
      args.stride = both % 2 == 0 ? 2 : 1;
      run<float>(args);
      run<double>(args);
      run<__nv_bfloat16>(args);
    }
  }
  return failures;
}
