// The operators on what leaves a node: the CPU kernel over threads, the CUDA kernel.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../common/device.h"
#include "../common/dtype.h"
#include "rectify_average/rectify_average.h"

namespace snsoftmax {

namespace {

using at::Tensor;
using at::TensorList;
using Gradient = std::optional<Tensor>;

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;

void check(const Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x must be [N, C, H, W], but has ", x.dim(), " dimensions");
  TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble ||
                       x.scalar_type() == at::kBFloat16,
                   "x must be float32, float64 or bfloat16, but is ", x.scalar_type());
}

RowsArgs arguments(const Tensor& x) {
  RowsArgs args;
  args.dtype = *kernel_dtype(x.scalar_type());
  args.height = x.size(2);
  args.width = x.size(3);
  args.channels = x.size(1);
  return args;
}

/// f(begin, end) over the rows of x, in parts for the threads.
template <class F>
void over_rows(const Tensor& x, const F& f) {
  const int64_t rows = x.numel() == 0 ? 0 : x.size(0) * x.size(2);
  const int64_t grain = rows == 0 ? 1 : std::max<int64_t>(1, 32768 * rows / x.numel());
  at::parallel_for(0, rows, grain, f);
}

/// One of the gradients, which all have the shape of the map.
const Tensor& check_backward(const Gradient& rectified, TensorList through_relu,
                             TensorList identity, TensorList identity_weights, TensorList average,
                             TensorList average_weights) {
  TORCH_CHECK_VALUE(!identity.empty() || !through_relu.empty() || !average.empty(),
                    "one of the gradients must be given");
  TORCH_CHECK_VALUE(rectified || through_relu.empty(), "grad_rectified needs rectified");
  const Tensor& like = !identity.empty()       ? identity[0]
                       : !through_relu.empty() ? through_relu[0]
                                               : average[0];
  check(like);
  const auto check_all = [&](const char* name, TensorList grads) {
    for (const Tensor& g : grads) {
      TORCH_CHECK_VALUE(g.sym_sizes() == like.sym_sizes(), name, " has shape ", g.sym_sizes(),
                        ", but must have ", like.sym_sizes());
      TORCH_CHECK_VALUE(g.device() == like.device(), name, " is on ", g.device(),
                        ", but must be on ", like.device());
    }
  };
  if (rectified) check_all("rectified", *rectified);
  check_all("grad_identity", identity);
  check_all("grad_rectified", through_relu);
  check_all("grad_averaged", average);
  const auto check_weights = [&](const char* name, TensorList weights, TensorList grads) {
    TORCH_CHECK_VALUE(weights.size() == grads.size(), name, " has ", weights.size(),
                      " entries, but there are ", grads.size(), " gradients");
    for (const Tensor& w : weights) {
      TORCH_CHECK_VALUE(w.sym_numel() == 1, name, " must hold one number each, but one has shape ",
                        w.sym_sizes());
      TORCH_CHECK_VALUE(!w.is_cuda() || w.device() == like.device(), name, " is on ", w.device(),
                        ", but must be on ", like.device(), " or the CPU");
    }
  };
  check_weights("identity_weights", identity_weights, identity);
  check_weights("average_weights", average_weights, average);
  return like;
}

// ---- either device ----

std::tuple<Tensor, Tensor> rectify_average(const Tensor& given, bool rectify, bool average) {
  check(given);
  const Tensor x = given.contiguous(kLayout);
  const auto output = [&](bool wanted) {
    return wanted ? at::empty_like(x) : at::empty({0}, x.options());
  };
  Tensor rectified = output(rectify);
  Tensor averaged = output(average);
  void* const to_rectified = rectify ? rectified.mutable_data_ptr() : nullptr;
  void* const to_averaged = average ? averaged.mutable_data_ptr() : nullptr;
#ifdef SNSOFTMAX_WITH_CUDA
  if (x.is_cuda()) {
    on_device("rectify_average", x, 0, [&](void*, void* stream) {
      return rectify_average_cuda(arguments(x), x.size(0), x.const_data_ptr(), to_rectified,
                                  to_averaged, stream);
    });
    return {rectified, averaged};
  }
#endif
  over_rows(x, [&](int64_t begin, int64_t end) {
    rectify_average_cpu(arguments(x), x.const_data_ptr(), to_rectified, to_averaged, begin, end);
  });
  return {rectified, averaged};
}

/// What the kernels' readers point to. Weights on a GPU are left there: reading one would wait for
/// the device.
struct Held {
  std::vector<Tensor> maps;
  std::vector<const void*> data;
  std::vector<Tensor> device_weights;
  std::vector<Weight> weights;

  Held(const Tensor& like, TensorList grads, TensorList given_weights = {}) {
    for (const Tensor& g : grads) {
      maps.push_back(g.to(like.scalar_type()).contiguous(kLayout));
      data.push_back(maps.back().const_data_ptr());
    }
    for (const Tensor& w : given_weights) weights.push_back(weight(w));
  }

  Weight weight(const Tensor& w) {
    if (!w.is_cuda()) return {nullptr, DType::kFloat64, w.item<double>()};
    const auto dtype = kernel_dtype(w.scalar_type());
    device_weights.push_back(dtype ? w : w.to(at::kDouble));
    return {device_weights.back().const_data_ptr(), dtype.value_or(DType::kFloat64), 0.0};
  }

  Readers readers() const {
    return {data.data(), weights.empty() ? nullptr : weights.data(),
            static_cast<int64_t>(data.size())};
  }
};

Tensor rectify_average_backward(const Gradient& rectified, TensorList through_relu,
                                TensorList identity, TensorList identity_weights,
                                TensorList average, TensorList average_weights) {
  const Tensor& like =
      check_backward(rectified, through_relu, identity, identity_weights, average, average_weights);
  const Tensor r = rectified ? rectified->to(like.scalar_type()).contiguous(kLayout) : Tensor();
  const void* const gate = r.defined() ? r.const_data_ptr() : nullptr;
  const Held of_identity(like, identity, identity_weights);
  const Held of_rectified(like, through_relu);
  const Held of_averaged(like, average, average_weights);
  Tensor grad = at::empty_like(like, like.options().memory_format(kLayout));
#ifdef SNSOFTMAX_WITH_CUDA
  if (grad.is_cuda()) {
    on_device("rectify_average", grad, 0, [&](void*, void* stream) {
      return rectify_average_backward_cuda(arguments(grad), grad.size(0), gate,
                                           of_identity.readers(), of_rectified.readers(),
                                           of_averaged.readers(), grad.mutable_data_ptr(), stream);
    });
    return grad;
  }
#endif
  over_rows(grad, [&](int64_t begin, int64_t end) {
    rectify_average_backward_cpu(arguments(grad), gate, of_identity.readers(),
                                 of_rectified.readers(), of_averaged.readers(),
                                 grad.mutable_data_ptr(), begin, end);
  });
  return grad;
}

// ---- fake tensors ----

std::tuple<Tensor, Tensor> rectify_average_meta(const Tensor& x, bool rectify, bool average) {
  check(x);
  const auto output = [&](bool wanted) {
    return wanted ? at::empty_like(x, x.options().memory_format(kLayout))
                  : at::empty({0}, x.options());
  };
  return {output(rectify), output(average)};
}

Tensor rectify_average_backward_meta(const Gradient& rectified, TensorList through_relu,
                                     TensorList identity, TensorList identity_weights,
                                     TensorList average, TensorList average_weights) {
  const Tensor& like =
      check_backward(rectified, through_relu, identity, identity_weights, average, average_weights);
  return at::empty_like(like, like.options().memory_format(kLayout));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def("rectify_average(Tensor x, bool rectify, bool average) -> (Tensor, Tensor)");
  m.def(
      "rectify_average_backward(Tensor? rectified, Tensor[] grad_rectified, "
      "Tensor[] grad_identity, Tensor[] identity_weights, Tensor[] grad_averaged, "
      "Tensor[] average_weights) -> Tensor");
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) {
  m.impl("rectify_average", rectify_average);
  m.impl("rectify_average_backward", rectify_average_backward);
}

#ifdef SNSOFTMAX_WITH_CUDA
TORCH_LIBRARY_IMPL(snsoftmax, CUDA, m) {
  m.impl("rectify_average", rectify_average);
  m.impl("rectify_average_backward", rectify_average_backward);
}
#endif

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("rectify_average", rectify_average_meta);
  m.impl("rectify_average_backward", rectify_average_backward_meta);
}

}  // namespace snsoftmax
