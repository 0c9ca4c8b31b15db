// The operators on one convolution of stride 2.
#include <torch/library.h>

#include "convolve_arguments.h"

namespace snsoftmax {

namespace {

/// Of x of `size` pixels; `map` has its number of images and its dtype.
ConvolveArgs arguments(const Tensor& map, at::IntArrayRef size, int64_t inputs, int64_t outputs,
                       int64_t kernel) {
  ConvolveArgs args = convolve_arguments(map, inputs, outputs, 1, kernel);
  args.height = size[0];
  args.width = size[1];
  args.stride = 2;
  return args;
}

c10::SymInt half(const c10::SymInt& size) { return (size + 1) / 2; }

void check_backward_map(const Tensor& grad, const Tensor& weight, const c10::SymInt& height,
                        const c10::SymInt& width) {
  check_convolve_backward_map(grad, weight);
  TORCH_CHECK_VALUE(grad.sym_size(2) == half(height) && grad.sym_size(3) == half(width),
                    "grad has shape ", grad.sym_sizes(), ", which a map of ", height, " x ", width,
                    " pixels does not give at stride 2");
}

Tensor forward_cpu(const Tensor& x, const Tensor& weight) {
  check_convolve(x, weight);
  return run_convolve_forward(
      arguments(x, x.sizes().slice(2), x.size(1), weight.size(0), weight.size(2)), x, weight)[0];
}

Tensor backward_map_cpu(const Tensor& grad, const Tensor& weight, int64_t height, int64_t width) {
  check_backward_map(grad, weight, height, width);
  return run_convolve_backward_map(
      arguments(grad, {height, width}, weight.size(1), weight.size(0), weight.size(2)), grad,
      weight);
}

Tensor backward_weight_cpu(const Tensor& grad, const Tensor& x, int64_t kernel) {
  check_convolve_backward_weight(grad, x, kernel, 2);
  return run_convolve_backward_weight(
      arguments(x, x.sizes().slice(2), x.size(1), grad.size(1), kernel), grad, x)[0];
}

Tensor forward_meta(const Tensor& x, const Tensor& weight) {
  check_convolve(x, weight);
  return at::empty_symint(
      {x.sym_size(0), weight.sym_size(0), half(x.sym_size(2)), half(x.sym_size(3))},
      x.options().memory_format(kConvolveLayout));
}

Tensor backward_map_meta(const Tensor& grad, const Tensor& weight, c10::SymInt height,
                         c10::SymInt width) {
  check_backward_map(grad, weight, height, width);
  return at::empty_symint({grad.sym_size(0), weight.sym_size(1), height, width},
                          grad.options().memory_format(kConvolveLayout));
}

Tensor backward_weight_meta(const Tensor& grad, const Tensor& x, int64_t kernel) {
  check_convolve_backward_weight(grad, x, kernel, 2);
  return empty_weight(grad, x, kernel);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def("convolve_strided(Tensor x, Tensor weight) -> Tensor");
  m.def(
      "convolve_strided_backward_map(Tensor grad, Tensor weight, SymInt height, SymInt width) -> "
      "Tensor");
  m.def("convolve_strided_backward_weight(Tensor grad, Tensor x, int kernel) -> Tensor");
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) {
  m.impl("convolve_strided", forward_cpu);
  m.impl("convolve_strided_backward_map", backward_map_cpu);
  m.impl("convolve_strided_backward_weight", backward_weight_cpu);
}

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("convolve_strided", forward_meta);
  m.impl("convolve_strided_backward_map", backward_map_meta);
  m.impl("convolve_strided_backward_weight", backward_weight_meta);
}

}  // namespace snsoftmax
