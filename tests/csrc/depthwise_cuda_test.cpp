// The depthwise convolution's CUDA kernels on the thread rig, against sums over taps in double. The
// argument "few" is for the slow sanitizers.
#include <cstring>
#include <string>

#include "depthwise_cases.h"

namespace {

void expect_success(const char* error) { CHECK(error == nullptr, "a launch failed: %s", error); }

template <class T>
std::vector<T> shifted(const std::vector<T>& map, size_t offset) {
  std::vector<T> moved(offset);
  moved.insert(moved.end(), map.begin(), map.end());
  return moved;
}

/// Maps that start off a 16-byte boundary take another path: `offset` elements from one for the
/// gradients, `of_x` for x.
template <class T>
void run(int64_t images, const DepthwiseArgs& args, const Window& window, const Variant& variant,
         size_t offset, size_t of_x) {
  using Op = typename Traits<T>::Op;
  Problem<T> p(images, args, window, variant);
  auto x = shifted(p.x, of_x);
  std::vector<std::vector<T>> grad;
  for (const auto& map : p.grad) grad.push_back(shifted(map, offset));
  const auto gradients = p.edges(grad, offset);
  expect_success(depthwise_forward_cuda(p.a, images, x.data() + of_x, p.edges(p.y), nullptr));
  expect_success(depthwise_backward_map_cuda(p.a, images, x.data() + of_x, gradients,
                                             p.grad_map.data(), nullptr));
  std::vector<Op> found[2];
  for (auto& grad_weights : found) {
    grad_weights.resize(p.weights.size());
    std::vector<double> parts(p.weights.size() *
                              static_cast<size_t>(depthwise_parts_cuda(p.a, images)));
    expect_success(depthwise_backward_weight_cuda(p.a, images, x.data() + of_x, gradients,
                                                  parts.data(), grad_weights.data(), nullptr));
  }
  CHECK(std::memcmp(found[0].data(), found[1].data(), found[0].size() * sizeof(Op)) == 0,
        "the gradients of the weights differ from call to call");
  p.check(found[0]);
}

template <class T>
void run(int64_t images, const DepthwiseArgs& args, const Window& window, const Variant& variant,
         size_t offset = 0) {
  run<T>(images, args, window, variant, offset, offset);
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
  each_case(
      [&](int64_t images, const DepthwiseArgs& args, const Window& window, const Variant& variant) {
        if (few && number++ % 7 != 0) return;
        run<float>(images, args, window, variant);
        run<__nv_bfloat16>(images, args, window, variant);
        if (few) return;
        run<double>(images, args, window, variant);
        run<__half>(images, args, window, variant);
        run<float>(images, args, window, variant, 1);
      });
  const Window usual;
  const Variant rectified{3, true, true};
  run<float>(2, arguments(5, 4, 40), usual, rectified);       // more packs than a block takes
  run<float>(1, arguments(3, 4, 8), usual, rectified, 1);     // packs that no 16 bytes hold
  run<float>(1, arguments(3, 4, 8), usual, rectified, 1, 0);  // the edges' maps alone lie so
  // A map beside others' channels.
  run<float>(1, arguments(3, 4, 5), usual, Variant{1, true, false, false, false, 3});
  run<float>(1, arguments(3, 4, 8), usual, Variant{1, true, false, false, false, 3});
  // Parts of x's channels that no packs hold, though all of them would.
  run<float>(1, arguments(3, 4, 4), usual, Variant{3, false, true, true, true});
  // More parts than one, more pixels than threads.
  run<float>(1, arguments(70, 65, 4), usual, kVariants[0]);
  float nothing = 0;
  DepthwiseEdges edges;
  edges.count = 1;
  edges.edge[0] = {&nothing, &nothing, 8, 0, 8, 7, 1};
  const auto refused = [&](const std::string& why) {
    const char* const error =
        depthwise_forward_cuda(arguments(4, 4, 8), 1, &nothing, edges, nullptr);
    return error != nullptr && why == error;
  };
  CHECK(refused("the kernel size is neither 3 nor 5"), "a kernel of 7 was taken");
  edges.edge[0].kernel = 3;
  edges.count = kDepthwiseEdges + 1;
  CHECK(refused("there are too many edges"), "more edges than there can be were taken");
  CHECK(depthwise_forward_cuda(arguments(4, 4, 8), 0, nullptr, edges, nullptr) == nullptr,
        "no images failed");
  if (failures == 0) std::printf("depthwise: all cases pass\n");
  return failures != 0;
}
