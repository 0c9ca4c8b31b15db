// The operators on the convolutions that leave a node: schemas, shapes and the CUDA kernels. On a
// CPU they are compositions, and what differentiates them is Python's too
// (snsoftmax/node_convolve.py).
#include <ATen/ATen.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "../common/device.h"
#include "../common/dtype.h"
#include "node_convolve/node_convolve.h"

namespace snsoftmax {

namespace {

using at::Tensor;
using Maps = std::tuple<Tensor, Tensor, Tensor>;

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;

void check_map(const Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x must be [N, C, H, W], but has ", x.dim(), " dimensions");
  TORCH_CHECK_TYPE(kernel_dtype(x.scalar_type()).has_value(),
                   "x must be float32, float64, float16 or bfloat16, but is ", x.scalar_type());
  TORCH_CHECK_VALUE(x.sym_size(1) > 0, "x must have channels");
}

void check_live(const Tensor& x, const c10::SymInt& edges, const std::optional<Tensor>& live) {
  if (!live) return;
  TORCH_CHECK_VALUE(live->dim() == 1 && live->sym_size(0) == edges && live->device() == x.device(),
                    "live must be [", edges, "] on ", x.device(), ", but has shape ",
                    live->sym_sizes(), " on ", live->device());
  TORCH_CHECK_TYPE(live->scalar_type() == at::kBool, "live must be bool, but is ",
                   live->scalar_type());
}

void check(const Tensor& x, const Tensor& three, const Tensor& one,
           const std::optional<Tensor>& live) {
  check_map(x);
  const auto channels = x.sym_size(1);
  const auto check_weight = [&](const char* name, const Tensor& weight, int64_t side) {
    TORCH_CHECK_VALUE(weight.dim() == 4 && weight.sym_size(0) % channels == 0 &&
                          weight.sym_size(1) == channels && weight.sym_size(2) == side &&
                          weight.sym_size(3) == side,
                      name, " must be [edges * ", channels, ", ", channels, ", ", side, ", ", side,
                      "], but has shape ", weight.sym_sizes());
    TORCH_CHECK_TYPE(weight.scalar_type() == x.scalar_type(), name, " must be ", x.scalar_type(),
                     " as x is, but is ", weight.scalar_type());
    TORCH_CHECK_VALUE(weight.device() == x.device(), name, " is on ", weight.device(), ", x on ",
                      x.device());
  };
  check_weight("three", three, 3);
  check_weight("one", one, 1);
  check_live(x, (three.sym_size(0) + one.sym_size(0)) / channels, live);
}

void check_gradients(const Tensor& x, const Tensor& three, const Tensor& one,
                     const std::optional<Tensor>& live) {
  check_map(x);
  const auto check_grad = [&](const char* name, const Tensor& grad) {
    TORCH_CHECK_VALUE(grad.dim() == 4 && grad.sym_size(0) == x.sym_size(0) &&
                          grad.sym_size(1) % x.sym_size(1) == 0 &&
                          grad.sym_size(2) == x.sym_size(2) && grad.sym_size(3) == x.sym_size(3),
                      name, " must be [", x.sym_size(0), ", edges * ", x.sym_size(1), ", ",
                      x.sym_size(2), ", ", x.sym_size(3), "], but has shape ", grad.sym_sizes());
    TORCH_CHECK_TYPE(grad.scalar_type() == x.scalar_type(), name, " must be ", x.scalar_type(),
                     " as x is, but is ", grad.scalar_type());
    TORCH_CHECK_VALUE(grad.device() == x.device(), name, " is on ", grad.device(), ", x on ",
                      x.device());
  };
  check_grad("grad_three", three);
  check_grad("grad_one", one);
  check_live(x, (three.sym_size(1) + one.sym_size(1)) / x.sym_size(1), live);
}

/// Beside that, kernels of as many edges.
void check_gradients(const Tensor& x, const Tensor& grad_three, const Tensor& grad_one,
                     const Tensor& three, const Tensor& one, const std::optional<Tensor>& live) {
  check_gradients(x, grad_three, grad_one, live);
  check(x, three, one, live);
  TORCH_CHECK_VALUE(
      grad_three.sym_size(1) == three.sym_size(0) && grad_one.sym_size(1) == one.sym_size(0),
      "grad_three and grad_one have ", grad_three.sym_size(1), " and ", grad_one.sym_size(1),
      " channels, but three and one give ", three.sym_size(0), " and ", one.sym_size(0));
}

Maps empty_maps(const Tensor& x, const Tensor& three, const Tensor& one) {
  const auto map = [&](const Tensor& weight) {
    return at::empty_symint({x.sym_size(0), weight.sym_size(0), x.sym_size(2), x.sym_size(3)},
                            x.options().memory_format(kLayout));
  };
  const auto edges = (three.sym_size(0) + one.sym_size(0)) / x.sym_size(1);
  return {map(three), map(one),
          at::empty_symint({edges, 2, x.sym_size(1)}, x.options().dtype(at::kDouble))};
}

std::tuple<Tensor, Tensor> empty_weights(const Tensor& x, const Tensor& three, const Tensor& one) {
  const auto weight = [&](const Tensor& grad, int64_t side) {
    return at::empty_symint({grad.sym_size(1), x.sym_size(1), side, side},
                            x.options().memory_format(kLayout));
  };
  return {weight(three, 3), weight(one, 1)};
}

std::tuple<Tensor, Tensor> weights_meta(const Tensor& three, const Tensor& one, const Tensor& x,
                                        const std::optional<Tensor>& live) {
  check_gradients(x, three, one, live);
  return empty_weights(x, three, one);
}

Tensor map_meta(const Tensor& grad_three, const Tensor& grad_one, const Tensor& x,
                const Tensor& three, const Tensor& one, const std::optional<Tensor>& live) {
  check_gradients(x, grad_three, grad_one, three, one, live);
  return at::empty_symint(x.sym_sizes(), x.options().memory_format(kLayout));
}

Maps meta(const Tensor& x, const Tensor& three, const Tensor& one,
          const std::optional<Tensor>& live) {
  check(x, three, one, live);
  return empty_maps(x, three, one);
}

#ifdef SNSOFTMAX_WITH_CUDA
NodeConvolveArgs arguments(const Tensor& x) {
  NodeConvolveArgs args;
  args.dtype = *kernel_dtype(x.scalar_type());
  args.images = x.size(0);
  args.height = x.size(2);
  args.width = x.size(3);
  args.channels = x.size(1);
  return args;
}

Maps cuda(const Tensor& given, const Tensor& given_three, const Tensor& given_one,
          const std::optional<Tensor>& given_live) {
  check(given, given_three, given_one, given_live);
  const Tensor x = given.contiguous(kLayout);
  const Tensor three = given_three.contiguous(kLayout);
  const Tensor one = given_one.contiguous(kLayout);
  const Tensor live = given_live ? given_live->contiguous() : Tensor();
  const Maps maps = empty_maps(x, three, one);
  const Tensor& moments = std::get<2>(maps);
  if (x.numel() == 0) {
    moments.zero_();
    return maps;
  }
  const NodeConvolveArgs args = arguments(x);
  const int64_t of_three = three.size(0) / args.channels;
  const int64_t of_one = one.size(0) / args.channels;
  const auto operation = [&](const Tensor& weight, const Tensor& y, int64_t first, int64_t edges) {
    return NodeConvolution{edges, weight.const_data_ptr(),
                           live.defined() ? live.const_data_ptr<bool>() + first : nullptr,
                           y.mutable_data_ptr(),
                           moments.mutable_data_ptr<double>() + 2 * first * args.channels};
  };
  on_device("node_convolve", x, node_convolve_workspace_cuda(args, of_three + of_one),
            [&](void* workspace, void* stream) {
              return node_convolve_cuda(
                  args, x.const_data_ptr(), operation(three, std::get<0>(maps), 0, of_three),
                  operation(one, std::get<1>(maps), of_three, of_one), workspace, stream);
            });
  return maps;
}

/// Dense, and where the kernels of the gradients need it, on 16 bytes.
Tensor dense(const Tensor& given) {
  const Tensor t = given.contiguous(kLayout);
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 ? t : t.clone();
}

/// Both operations' gradients as the kernels take them, and what holds their memory.
struct HeldGradients {
  Tensor maps[2], weights[2], live;
  int64_t edges[2];

  HeldGradients(const Tensor& x, const Tensor& three, const Tensor& one,
                const std::optional<Tensor>& given_live)
      : maps{dense(three), dense(one)},
        live(given_live ? given_live->contiguous() : Tensor()),
        edges{three.size(1) / x.size(1), one.size(1) / x.size(1)} {}

  NodeConvolveGradients of(int operation) const {
    const bool* const first = live.defined() ? live.const_data_ptr<bool>() : nullptr;
    return {edges[operation], first == nullptr ? nullptr : first + operation * edges[0],
            maps[operation].const_data_ptr(),
            weights[operation].defined() ? weights[operation].const_data_ptr() : nullptr};
  }
};

std::tuple<Tensor, Tensor> weights_cuda(const Tensor& three, const Tensor& one, const Tensor& given,
                                        const std::optional<Tensor>& live) {
  check_gradients(given, three, one, live);
  const Tensor x = dense(given);
  const auto found = empty_weights(x, three, one);
  const auto& [dw_three, dw_one] = found;
  if (x.numel() == 0) {
    dw_three.zero_();
    dw_one.zero_();
    return found;
  }
  const HeldGradients held(x, three, one, live);
  const NodeConvolveArgs args = arguments(x);
  void* const to_three = dw_three.mutable_data_ptr();
  void* const to_one = dw_one.mutable_data_ptr();
  on_device("node_convolve_backward_weights", x,
            node_convolve_weights_workspace_cuda(args, held.edges[0], held.edges[1]),
            [&](void* workspace, void* stream) {
              return node_convolve_weights_cuda(args, x.const_data_ptr(), held.of(0), held.of(1),
                                                to_three, to_one, workspace, stream);
            });
  return found;
}

Tensor map_cuda(const Tensor& grad_three, const Tensor& grad_one, const Tensor& given,
                const Tensor& three, const Tensor& one, const std::optional<Tensor>& live) {
  check_gradients(given, grad_three, grad_one, three, one, live);
  const Tensor x = dense(given);
  HeldGradients held(x, grad_three, grad_one, live);
  held.weights[0] = dense(three);
  held.weights[1] = dense(one);
  Tensor found = at::empty_like(x);
  on_device("node_convolve_backward_map", x, 0, [&](void*, void* stream) {
    return node_convolve_map_cuda(arguments(x), x.const_data_ptr(), held.of(0), held.of(1),
                                  found.mutable_data_ptr(), stream);
  });
  return found;
}
#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def(
      "node_convolve(Tensor x, Tensor three, Tensor one, Tensor? live) "
      "-> (Tensor three, Tensor one, Tensor moments)");
  m.def(
      "node_convolve_backward_weights(Tensor grad_three, Tensor grad_one, Tensor x, Tensor? live) "
      "-> (Tensor, Tensor)");
  m.def(
      "node_convolve_backward_map(Tensor grad_three, Tensor grad_one, Tensor x, Tensor three, "
      "Tensor one, Tensor? live) -> Tensor");
  // On the tensors as they are, for what is composed of PyTorch's operators.
  m.def("node_convolve_check(Tensor x, Tensor three, Tensor one, Tensor? live) -> ()", check);
}

#ifdef SNSOFTMAX_WITH_CUDA
TORCH_LIBRARY_IMPL(snsoftmax, CUDA, m) {
  m.impl("node_convolve", cuda);
  m.impl("node_convolve_backward_weights", weights_cuda);
  m.impl("node_convolve_backward_map", map_cuda);
}
#endif

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("node_convolve", meta);
  m.impl("node_convolve_backward_weights", weights_meta);
  m.impl("node_convolve_backward_map", map_meta);
}

}  // namespace snsoftmax
