// The depthwise convolution's CUDA kernels on the thread rig, against sums over taps in double. The
// argument "few" is for the slow sanitizers.
#include <cstring>
#include <string>

#include "depthwise_cases.h"

namespace {

void expect_success(const char* error) { CHECK(error == nullptr, "a launch failed: %s", error); }

/// Maps that start off a 16-byte boundary take another path: `offset` elements from one.
template <class T>
void run(int64_t images, const DepthwiseArgs& args, size_t offset = 0) {
  using Op = typename Traits<T>::Op;
  Problem<T> p(images, args);
  const auto shifted = [&](const std::vector<T>& map) {
    std::vector<T> moved(offset);
    moved.insert(moved.end(), map.begin(), map.end());
    return moved;
  };
  const auto x = shifted(p.x);
  const auto grad = shifted(p.grad);
  expect_success(
      depthwise_forward_cuda(p.a, images, x.data() + offset, p.weight.data(), p.y.data(), nullptr));
  expect_success(depthwise_backward_map_cuda(p.a, images, grad.data() + offset, p.weight.data(),
                                             p.grad_map.data(), nullptr));
  std::vector<Op> found[2];
  for (auto& grad_weight : found) {
    grad_weight.resize(p.weight.size());
    std::vector<double> parts(p.weight.size() *
                              static_cast<size_t>(depthwise_parts_cuda(p.a, images)));
    expect_success(depthwise_backward_weight_cuda(p.a, images, grad.data() + offset,
                                                  x.data() + offset, parts.data(),
                                                  grad_weight.data(), nullptr));
  }
  CHECK(std::memcmp(found[0].data(), found[1].data(), found[0].size() * sizeof(Op)) == 0,
        "the gradient of the weight differs from call to call");
  p.check(found[0]);
}

DepthwiseArgs arguments(int64_t height, int64_t width, int64_t channels) {
  DepthwiseArgs args;
  args.height = height;
  args.width = width;
  args.channels = channels;
  return args;
}

}  // namespace

int main(int count, char** given) {
  const bool few = count > 1 && std::string(given[1]) == "few";
  int number = 0;
  each_case([&](int64_t images, const DepthwiseArgs& args) {
    if (few && number++ % 5 != 0) return;
    run<float>(images, args);
    run<__nv_bfloat16>(images, args);
    if (few) return;
    run<double>(images, args);
    run<__half>(images, args);
    run<float>(images, args, 1);
  });
  run<float>(2, arguments(5, 4, 80));   // more packs than a block takes
  run<float>(1, arguments(70, 65, 4));  // more parts than one, more pixels than a part's threads
  auto other = arguments(4, 4, 8);
  other.kernel = 7;
  float nothing = 0;
  CHECK(depthwise_forward_cuda(other, 1, &nothing, &nothing, &nothing, nullptr) != nullptr,
        "a kernel of 7 was taken");
  CHECK(
      depthwise_forward_cuda(arguments(4, 4, 8), 0, nullptr, nullptr, nullptr, nullptr) == nullptr,
      "no images failed");
  if (failures == 0) std::printf("depthwise: all cases pass\n");
  return failures != 0;
}
