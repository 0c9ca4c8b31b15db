// The operators on convolutions that share their input: the CPU kernel over threads.
#include <torch/library.h>

#include "convolve_arguments.h"

namespace snsoftmax {

namespace {

void check_map(const char* name, const Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, name, " must be [N, C, H, W], but has ", map.dim(),
                    " dimensions");
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble ||
                       map.scalar_type() == at::kBFloat16,
                   name, " must be float32, float64 or bfloat16, but is ", map.scalar_type());
  TORCH_CHECK_VALUE(map.sym_size(1) % kConvolveChannels == 0, name,
                    " must have a multiple of 16 channels, but has ", map.sym_size(1));
}

/// `one_size`: must the kernels be of one?
void check_weights(const Tensor& like, TensorList weights, bool one_size) {
  TORCH_CHECK_VALUE(!weights.empty(), "one weight must be given at least");
  for (const Tensor& w : weights) {
    TORCH_CHECK_VALUE(
        w.dim() == 4 && w.sym_size(2) == w.sym_size(3) &&
            (w.sym_size(2) == 1 || w.sym_size(2) == 3) && w.sym_size(0) == weights[0].sym_size(0) &&
            w.sym_size(1) == weights[0].sym_size(1) &&
            (!one_size || w.sym_size(2) == weights[0].sym_size(2)) &&
            w.sym_size(0) % kConvolveChannels == 0 && w.sym_size(1) % kConvolveChannels == 0,
        "weights must be [K, C, k, k] with k 1 or 3, K and C multiples of 16, and of ",
        one_size ? "one shape" : "one K and C", ", but one has ", w.sym_sizes());
    TORCH_CHECK_TYPE(w.scalar_type() == opmath(like), "weights of a map of ", like.scalar_type(),
                     " must be ", opmath(like), ", but one is ", w.scalar_type());
  }
}

}  // namespace

void check_convolve(const Tensor& x, TensorList weights, bool one_size) {
  check_map("x", x);
  check_weights(x, weights, one_size);
  TORCH_CHECK_VALUE(weights[0].sym_size(1) == x.sym_size(1), "weights are for ",
                    weights[0].sym_size(1), " channels, but x has ", x.sym_size(1));
}

namespace {

void check_gradients(TensorList grads) {
  TORCH_CHECK_VALUE(!grads.empty(), "one gradient must be given at least");
  for (const Tensor& g : grads) {
    check_map("grads", g);
    TORCH_CHECK_VALUE(g.sym_sizes() == grads[0].sym_sizes(),
                      "grads must have one shape, but one has ", g.sym_sizes(), " and the first ",
                      grads[0].sym_sizes());
    TORCH_CHECK_TYPE(g.scalar_type() == grads[0].scalar_type(), "grads must have one dtype");
  }
}

}  // namespace

void check_convolve_backward_map(TensorList grads, TensorList weights, bool one_size) {
  check_gradients(grads);
  check_weights(grads[0], weights, one_size);
  TORCH_CHECK_VALUE(
      grads.size() == weights.size() && weights[0].sym_size(0) == grads[0].sym_size(1),
      "there must be one gradient of ", weights[0].sym_size(0), " channels for each weight");
}

void check_convolve_backward_weight(TensorList grads, const Tensor& x, int64_t kernel,
                                    int64_t stride) {
  TORCH_CHECK_VALUE(kernel == 1 || kernel == 3, "kernel must be 1 or 3, but is ", kernel);
  check_gradients(grads);
  check_map("x", x);
  const Tensor& g = grads[0];
  const auto strided = [&](const c10::SymInt& size) { return (size + (stride - 1)) / stride; };
  TORCH_CHECK_VALUE(g.sym_size(0) == x.sym_size(0) && g.sym_size(2) == strided(x.sym_size(2)) &&
                        g.sym_size(3) == strided(x.sym_size(3)) &&
                        g.scalar_type() == x.scalar_type(),
                    "grads have shape ", g.sym_sizes(), ", which x of ", x.sym_sizes(),
                    " does not give at stride ", stride);
}

ConvolveArgs convolve_arguments(const Tensor& map, int64_t inputs, int64_t outputs, size_t edges,
                                int64_t kernel) {
  ConvolveArgs args;
  args.dtype = *kernel_dtype(map.scalar_type());
  args.images = map.size(0);
  args.height = map.size(2);
  args.width = map.size(3);
  args.inputs = inputs;
  args.outputs = outputs;
  args.edges = static_cast<int64_t>(edges);
  args.kernel = kernel;
  return args;
}

Tensor pack_kernels(const ConvolveArgs& args, const Tensor& like, TensorList weights,
                    bool backward) {
  const Held held(weights);
  Tensor packed = at::empty({args.kernel_values()}, like.options());
  at::parallel_for(
      0, args.edges * args.outputs / kConvolveChannels, 1, [&](int64_t begin, int64_t end) {
        convolve_pack_cpu(args, held.data.data(), backward, packed.mutable_data_ptr(), begin, end);
      });
  return packed;
}

namespace {

/// f(begin, end) over tiles, in parts for the threads.
template <class F>
void over_tiles(const ConvolveArgs& args, const F& f) {
  constexpr int64_t kWorthAThread = 1 << 17;  // multiplications
  const int64_t each = std::max<int64_t>(1, args.kernel_values());
  at::parallel_for(0, args.tiles(), std::max<int64_t>(16, kWorthAThread / each), f);
}

}  // namespace

std::vector<Tensor> run_convolve_forward(const ConvolveArgs& args, const Tensor& given,
                                         TensorList weights) {
  const Tensor x = given.contiguous(kConvolveLayout);
  const Tensor packed = pack_kernels(args, x, weights, false);
  const Made y(weights.size(),
               {args.images, args.outputs, args.strided(args.height), args.strided(args.width)},
               x.options());
  over_tiles(args, [&](int64_t begin, int64_t end) {
    convolve_forward_cpu(args, x.const_data_ptr(), packed.const_data_ptr(), y.data.data(), begin,
                         end);
  });
  return y.tensors;
}

namespace {

std::vector<Tensor> forward_cpu(const Tensor& x, TensorList weights) {
  check_convolve(x, weights);
  return run_convolve_forward(
      convolve_arguments(x, x.size(1), weights[0].size(0), weights.size(), weights[0].size(2)), x,
      weights);
}

}  // namespace

Tensor convolve_backward_map(TensorList grads, TensorList weights) {
  check_convolve_backward_map(grads, weights);
  return run_convolve_backward_map(
      convolve_arguments(grads[0], weights[0].size(1), grads[0].size(1), grads.size(),
                         weights[0].size(2)),
      grads, weights);
}

Tensor run_convolve_backward_map(const ConvolveArgs& args, TensorList given, TensorList weights) {
  const Held grads(given);
  const Tensor& g = grads.tensors[0];
  const Tensor packed = pack_kernels(args, g, weights, true);
  Tensor grad_map = at::empty({args.images, args.inputs, args.height, args.width},
                              g.options().memory_format(kConvolveLayout));
  over_tiles(args, [&](int64_t begin, int64_t end) {
    convolve_backward_map_cpu(args, grads.data.data(), packed.const_data_ptr(),
                              grad_map.mutable_data_ptr(), begin, end);
  });
  return grad_map;
}

std::vector<Tensor> merged_weights(const ConvolveArgs& args, const Tensor& sums) {
  const Made weights(static_cast<size_t>(args.edges),
                     {args.outputs, args.inputs, args.kernel, args.kernel}, sums.options());
  at::parallel_for(0, args.inputs, 8, [&](int64_t begin, int64_t end) {
    convolve_merge_weight_cpu(args, sums.const_data_ptr(), sums.size(0), weights.data.data(), begin,
                              end);
  });
  return weights.tensors;
}

std::vector<Tensor> convolve_backward_weight(TensorList grads, const Tensor& x, int64_t kernel) {
  check_convolve_backward_weight(grads, x, kernel);
  return run_convolve_backward_weight(
      convolve_arguments(x, x.size(1), grads[0].size(1), grads.size(), kernel), grads, x);
}

std::vector<Tensor> run_convolve_backward_weight(const ConvolveArgs& args, TensorList given,
                                                 const Tensor& given_x) {
  const Held grads(given);
  const Tensor x = given_x.contiguous(kConvolveLayout);
  // One part a thread: the sums depend on the number of threads alone.
  const int64_t parts = std::clamp<int64_t>(args.tiles() / 16, 1, at::get_num_threads());
  Tensor sums = at::zeros({parts, args.kernel_values()}, x.options().dtype(opmath(x)));
  char* const data = static_cast<char*>(sums.mutable_data_ptr());
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      convolve_backward_weight_cpu(
          args, grads.data.data(), x.const_data_ptr(),
          data + part * args.kernel_values() * static_cast<int64_t>(sums.element_size()),
          args.tiles() * part / parts, args.tiles() * (part + 1) / parts);
    }
  });
  return merged_weights(args, sums);
}

Tensor empty_map(const Tensor& like, const c10::SymInt& channels) {
  return at::empty_symint({like.sym_size(0), channels, like.sym_size(2), like.sym_size(3)},
                          like.options().memory_format(kConvolveLayout));
}

Tensor empty_weight(const Tensor& grad, const Tensor& x, int64_t kernel) {
  return at::empty_symint({grad.sym_size(1), x.sym_size(1), kernel, kernel},
                          x.options().dtype(opmath(x)).memory_format(kConvolveLayout));
}

namespace {

std::vector<Tensor> forward_meta(const Tensor& x, TensorList weights) {
  check_convolve(x, weights);
  std::vector<Tensor> y;
  for (const Tensor& w : weights) y.push_back(empty_map(x, w.sym_size(0)));
  return y;
}

Tensor backward_map_meta(TensorList grads, TensorList weights) {
  check_convolve_backward_map(grads, weights);
  return empty_map(grads[0], weights[0].sym_size(1));
}

std::vector<Tensor> backward_weight_meta(TensorList grads, const Tensor& x, int64_t kernel) {
  check_convolve_backward_weight(grads, x, kernel);
  std::vector<Tensor> grad_weights;
  for (const Tensor& g : grads) grad_weights.push_back(empty_weight(g, x, kernel));
  return grad_weights;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def("convolve(Tensor x, Tensor[] weights) -> Tensor[]");
  m.def("convolve_backward_map(Tensor[] grads, Tensor[] weights) -> Tensor");
  m.def("convolve_backward_weight(Tensor[] grads, Tensor x, int kernel) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) {
  m.impl("convolve", forward_cpu);
  m.impl("convolve_backward_map", convolve_backward_map);
  m.impl("convolve_backward_weight", convolve_backward_weight);
}

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("convolve", forward_meta);
  m.impl("convolve_backward_map", backward_map_meta);
  m.impl("convolve_backward_weight", backward_weight_meta);
}

}  // namespace snsoftmax
