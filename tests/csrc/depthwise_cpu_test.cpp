// The depthwise convolution's CPU kernels, of the capability that SNSOFTMAX_CPU_CAPABILITY names,
// against sums over taps in double; images in two chunks.
#include "depthwise_cases.h"

namespace {

template <class T>
void run(int64_t images, const DepthwiseArgs& args, const Window& window, const Variant& variant) {
  Problem<T> p(images, args, window, variant);
  const auto results = p.edges(p.y);
  const auto gradients = p.edges(p.grad);
  std::vector<double> parts[2] = {std::vector<double>(p.weights.size()),
                                  std::vector<double>(p.weights.size())};
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t begin = images * i / 2;
    const int64_t end = images * (i + 1) / 2;
    depthwise_forward_cpu(p.a, p.x.data(), results, begin, end);
    depthwise_backward_map_cpu(p.a, p.x.data(), gradients, p.grad_map.data(), begin, end);
    depthwise_backward_weight_cpu(p.a, p.x.data(), gradients, parts[i].data(), begin, end);
  }
  std::vector<double> grad_weights(p.weights.size());
  for (size_t i = 0; i < grad_weights.size(); ++i) grad_weights[i] = parts[0][i] + parts[1][i];
  p.check(grad_weights);
}

}  // namespace

int main() {
  each_case(
      [](int64_t images, const DepthwiseArgs& args, const Window& window, const Variant& variant) {
        run<float>(images, args, window, variant);
        run<double>(images, args, window, variant);
        run<__nv_bfloat16>(images, args, window, variant);
      });
  return failures;
}
