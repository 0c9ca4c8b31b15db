// The operator on the convolutions that leave a node: its schema, its shapes and the CUDA kernels.
// On a CPU it is a composition (snsoftmax/node_convolve.py).
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
using Maps = std::tuple<Tensor, Tensor, Tensor, Tensor>;

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;

void check(const Tensor& x, const Tensor& three, const Tensor& one,
           const std::optional<Tensor>& live) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x must be [N, C, H, W], but has ", x.dim(), " dimensions");
  TORCH_CHECK_TYPE(kernel_dtype(x.scalar_type()).has_value(),
                   "x must be float32, float64, float16 or bfloat16, but is ", x.scalar_type());
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
  TORCH_CHECK_VALUE(channels > 0, "x must have channels");
  check_weight("three", three, 3);
  check_weight("one", one, 1);
  if (!live) return;
  const auto edges = (three.sym_size(0) + one.sym_size(0)) / channels;
  TORCH_CHECK_VALUE(live->dim() == 1 && live->sym_size(0) == edges && live->device() == x.device(),
                    "live must be [", edges, "] on ", x.device(), ", but has shape ",
                    live->sym_sizes(), " on ", live->device());
  TORCH_CHECK_TYPE(live->scalar_type() == at::kBool, "live must be bool, but is ",
                   live->scalar_type());
}

Maps empty_maps(const Tensor& x, const Tensor& three, const Tensor& one) {
  const auto map = [&](const Tensor& weight) {
    return at::empty_symint({x.sym_size(0), weight.sym_size(0), x.sym_size(2), x.sym_size(3)},
                            x.options().memory_format(kLayout));
  };
  const auto moment = [&] {
    return at::empty_symint({three.sym_size(0) + one.sym_size(0)}, x.options().dtype(opmath(x)));
  };
  return {map(three), map(one), moment(), moment()};
}

Maps meta(const Tensor& x, const Tensor& three, const Tensor& one,
          const std::optional<Tensor>& live) {
  check(x, three, one, live);
  return empty_maps(x, three, one);
}

#ifdef SNSOFTMAX_WITH_CUDA
Maps cuda(const Tensor& given, const Tensor& given_three, const Tensor& given_one,
          const std::optional<Tensor>& given_live) {
  check(given, given_three, given_one, given_live);
  const Tensor x = given.contiguous(kLayout);
  const Tensor three = given_three.contiguous(kLayout);
  const Tensor one = given_one.contiguous(kLayout);
  const Tensor live = given_live ? given_live->contiguous() : Tensor();
  const Maps maps = empty_maps(x, three, one);
  const Tensor &mean = std::get<2>(maps), &var = std::get<3>(maps);
  if (x.numel() == 0) {
    mean.zero_();
    var.zero_();
    return maps;
  }
  NodeConvolveArgs args;
  args.dtype = *kernel_dtype(x.scalar_type());
  args.images = x.size(0);
  args.height = x.size(2);
  args.width = x.size(3);
  args.channels = x.size(1);
  const int64_t of_three = three.size(0) / args.channels;
  const int64_t of_one = one.size(0) / args.channels;
  const auto operation = [&](const Tensor& weight, const Tensor& y, int64_t first, int64_t edges) {
    const auto at = static_cast<size_t>(first * args.channels) * mean.element_size();
    const auto from = [&](const Tensor& moments) {
      return static_cast<void*>(static_cast<char*>(moments.mutable_data_ptr()) + at);
    };
    return NodeConvolution{edges,
                           weight.const_data_ptr(),
                           live.defined() ? live.const_data_ptr<bool>() + first : nullptr,
                           y.mutable_data_ptr(),
                           from(mean),
                           from(var)};
  };
  on_device("node_convolve", x, node_convolve_workspace_cuda(args, of_three + of_one),
            [&](void* workspace, void* stream) {
              return node_convolve_cuda(
                  args, x.const_data_ptr(), operation(three, std::get<0>(maps), 0, of_three),
                  operation(one, std::get<1>(maps), of_three, of_one), workspace, stream);
            });
  return maps;
}
#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def(
      "node_convolve(Tensor x, Tensor three, Tensor one, Tensor? live) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

#ifdef SNSOFTMAX_WITH_CUDA
TORCH_LIBRARY_IMPL(snsoftmax, CUDA, m) { m.impl("node_convolve", cuda); }
#endif

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) { m.impl("node_convolve", meta); }

}  // namespace snsoftmax
