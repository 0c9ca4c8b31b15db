// The depthwise convolution's CPU kernels, of the capability that SNSOFTMAX_CPU_CAPABILITY names,
// against sums over taps in double; images in two chunks.
#include "depthwise_cases.h"

namespace {

template <class T>
void run(int64_t images, const DepthwiseArgs& args) {
  Problem<T> p(images, args);
  std::vector<double> parts[2] = {std::vector<double>(p.weight.size()),
                                  std::vector<double>(p.weight.size())};
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t begin = images * i / 2;
    const int64_t end = images * (i + 1) / 2;
    depthwise_forward_cpu(p.a, p.x.data(), p.weight.data(), p.y.data(), begin, end);
    depthwise_backward_map_cpu(p.a, p.grad.data(), p.weight.data(), p.grad_map.data(), begin, end);
    depthwise_backward_weight_cpu(p.a, p.grad.data(), p.x.data(), parts[i].data(), begin, end);
  }
  std::vector<double> grad_weight(p.weight.size());
  for (size_t i = 0; i < grad_weight.size(); ++i) grad_weight[i] = parts[0][i] + parts[1][i];
  p.check(grad_weight);
}

}  // namespace

int main() {
  each_case([](int64_t images, const DepthwiseArgs& args) {
    run<float>(images, args);
    run<double>(images, args);
    run<__nv_bfloat16>(images, args);
  });
  return failures;
}
