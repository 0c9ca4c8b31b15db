// The depthwise convolution's operators: the CPU kernel over threads, the CUDA kernels.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "../common/device.h"
#include "../common/dtype.h"
#include "depthwise/depthwise.h"

namespace snsoftmax {

namespace {

using at::Tensor;
using at::TensorList;

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;

/// Of a map, in every direction: what the device's kernels take.
void check_map(const char* name, const Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, name, " must be [N, C, H, W], but has ", map.dim(),
                    " dimensions");
  TORCH_CHECK_VALUE(map.sym_size(1) > 0, name, " must have channels, but is ", map.sym_sizes());
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble ||
                       map.scalar_type() == at::kBFloat16 ||
                       (map.scalar_type() == at::kHalf && !map.is_cpu()),
                   name, " must be float32, float64, bfloat16 or, on CUDA, float16, but is ",
                   map.scalar_type(), " on ", map.device());
}

void check_window(int64_t kernel, int64_t stride, int64_t dilation) {
  TORCH_CHECK_VALUE(depthwise_takes(kernel), "kernel must be 3 or 5, but is ", kernel);
  TORCH_CHECK_VALUE(stride == 1 || stride == 2, "stride must be 1 or 2, but is ", stride);
  TORCH_CHECK_VALUE(dilation >= 1, "dilation must be positive, but is ", dilation);
}

/// Each weight holds the kernels of one or several edges, one after the other.
void check_weights(const Tensor& map, const c10::SymInt& channels, TensorList weights) {
  TORCH_CHECK_VALUE(!weights.empty(), "one weight must be given at least");
  for (const Tensor& w : weights) {
    TORCH_CHECK_VALUE(w.device() == map.device(), "a weight is on ", w.device(), ", the map on ",
                      map.device());
    TORCH_CHECK_VALUE(
        w.dim() == 4 && w.sym_size(0) >= channels && w.sym_size(0) % channels == 0 &&
            w.sym_size(1) == 1 && w.sym_size(2) == w.sym_size(3) &&
            (w.sym_size(2) == 3 || w.sym_size(2) == 5) && w.sym_sizes() == weights[0].sym_sizes(),
        "weights must be of one shape, [C, 1, k, k] with k 3 or 5 and C a multiple of ", channels,
        ", but one has ", w.sym_sizes());
    TORCH_CHECK_TYPE(w.scalar_type() == opmath(map), "weights must be ", opmath(map), " for ",
                     map.scalar_type(), " maps, but one is ", w.scalar_type());
  }
}

void check_statistics(const Tensor& x, const std::optional<Tensor>& mean,
                      const std::optional<Tensor>& rstd) {
  TORCH_CHECK_VALUE(mean.has_value() == rstd.has_value(), "mean and rstd go together");
  if (!mean.has_value()) return;
  for (const Tensor& s : {*mean, *rstd}) {
    TORCH_CHECK_VALUE(s.dim() == 1 && s.sym_size(0) == x.sym_size(1) && s.device() == x.device(),
                      "mean and rstd must be [", x.sym_size(1), "] on ", x.device(),
                      ", but one is ", s.sym_sizes(), " on ", s.device());
    TORCH_CHECK_TYPE(s.scalar_type() == opmath(x), "mean and rstd must be ", opmath(x), " for ",
                     x.scalar_type(), " maps, but one is ", s.scalar_type());
  }
}

/// Of the results of x, whose sizes are given, each for the same number of edges.
void check_gradients(TensorList grads, c10::SymIntArrayRef size, int64_t stride) {
  TORCH_CHECK_VALUE(!grads.empty(), "one gradient must be given at least");
  TORCH_CHECK_VALUE(size.size() == 4 && size[1] > 0, "size must be that of x, but is ", size);
  for (const Tensor& g : grads) {
    check_map("grads", g);
    TORCH_CHECK_TYPE(g.scalar_type() == grads[0].scalar_type(), "grads must have one dtype");
    TORCH_CHECK_VALUE(g.sym_sizes() == grads[0].sym_sizes() && g.sym_size(0) == size[0] &&
                          g.sym_size(1) >= size[1] && g.sym_size(1) % size[1] == 0 &&
                          g.sym_size(2) == (size[2] - 1) / stride + 1 &&
                          g.sym_size(3) == (size[3] - 1) / stride + 1,
                      "a gradient has shape ", g.sym_sizes(), ", which x of ", size,
                      " with stride ", stride, " does not give");
    TORCH_CHECK_VALUE(g.device() == grads[0].device(), "grads must be on one device");
  }
}

void check_forward(const Tensor& x, TensorList weights, const std::optional<Tensor>& mean,
                   const std::optional<Tensor>& rstd, int64_t stride, int64_t dilation) {
  check_map("x", x);
  check_weights(x, x.sym_size(1), weights);
  check_statistics(x, mean, rstd);
  check_window(weights[0].size(2), stride, dilation);
}

void check_backward_map(TensorList grads, TensorList weights, c10::SymIntArrayRef size,
                        const std::optional<Tensor>& x, const std::optional<Tensor>& mean,
                        const std::optional<Tensor>& rstd, int64_t stride, int64_t dilation) {
  TORCH_CHECK_VALUE(!weights.empty(), "one weight must be given at least");
  check_window(weights[0].size(-1), stride, dilation);
  check_gradients(grads, size, stride);
  check_weights(grads[0], size[1], weights);
  TORCH_CHECK_VALUE(
      grads.size() == weights.size() && grads[0].sym_size(1) == weights[0].sym_size(0),
      "there must be one gradient of ", weights[0].sym_size(0), " channels for each weight");
  TORCH_CHECK_VALUE(x.has_value() == mean.has_value(), "x, mean and rstd go together");
  if (!x.has_value()) return;
  check_statistics(*x, mean, rstd);
  TORCH_CHECK_VALUE(x->sym_sizes() == size && x->scalar_type() == grads[0].scalar_type() &&
                        x->device() == grads[0].device(),
                    "x must be of size ", size, ", dtype and device as grads are");
}

void check_backward_weight(TensorList grads, const Tensor& x, const std::optional<Tensor>& mean,
                           const std::optional<Tensor>& rstd, int64_t kernel, int64_t stride,
                           int64_t dilation) {
  check_map("x", x);
  check_window(kernel, stride, dilation);
  check_gradients(grads, x.sym_sizes(), stride);
  check_statistics(x, mean, rstd);
  TORCH_CHECK_TYPE(grads[0].scalar_type() == x.scalar_type(), "grads must be ", x.scalar_type(),
                   " as x is, but are ", grads[0].scalar_type());
  TORCH_CHECK_VALUE(grads[0].device() == x.device(), "grads are on ", grads[0].device(), ", x on ",
                    x.device());
}

/// What a call works on; owns the copies of what is not laid out as the kernels need.
struct Call {
  DepthwiseArgs args;
  DepthwiseEdges edges;
  int64_t images;
  std::vector<Tensor> held;

  Call(at::ScalarType dtype, at::IntArrayRef size, const std::optional<Tensor>& mean,
       const std::optional<Tensor>& rstd, int64_t kernel, int64_t stride, int64_t dilation)
      : images(size[0]) {
    args.dtype = *kernel_dtype(dtype);
    args.channels = size[1];
    args.height = size[2];
    args.width = size[3];
    args.kernel = kernel;
    args.stride = stride;
    args.dilation = dilation;
    if (mean.has_value()) {
      args.mean = hold(mean->contiguous());
      args.rstd = hold(rstd->contiguous());
    }
  }

  const void* hold(Tensor tensor) {
    held.push_back(std::move(tensor));
    return held.back().const_data_ptr();
  }

  /// Maps of the edges, channels_last, with as many edges in each.
  void set_maps(TensorList maps) {
    const int64_t inside = maps[0].size(1) / args.channels;
    TORCH_CHECK_VALUE(static_cast<int64_t>(maps.size()) * inside <= kDepthwiseEdges, "at most ",
                      kDepthwiseEdges, " edges can leave a map, but there are ",
                      static_cast<int64_t>(maps.size()) * inside);
    edges.pitch = maps[0].size(1);
    for (const Tensor& map : maps) {
      char* const data = static_cast<char*>(const_cast<void*>(map.const_data_ptr()));
      for (int64_t i = 0; i < inside; ++i) {
        edges.maps[edges.count++] = data + i * args.channels * map.element_size();
      }
    }
  }

  void set_weights(TensorList weights) {
    int e = 0;
    for (const Tensor& weight : weights) {
      const auto* const data = static_cast<const char*>(hold(weight.contiguous()));
      const int64_t each = args.channels * args.taps() * weight.element_size();
      for (int64_t i = 0; i < weight.size(0) / args.channels; ++i) {
        edges.weights[e++] = data + i * each;
      }
    }
  }

  void set_gradients(TensorList grads) {
    std::vector<Tensor> maps;
    for (const Tensor& g : grads) maps.push_back(g.contiguous(kLayout));
    set_maps(maps);
    for (Tensor& map : maps) held.push_back(std::move(map));
  }

  /// f(begin, end) over the images, in parts for the threads.
  template <class F>
  void over_images(const F& f) const {
    const int64_t each = args.height * args.width * args.channels;
    if (each == 0) return;
    at::parallel_for(0, images, std::max<int64_t>(1, 16384 / (each * edges.count)), f);
  }
};

Tensor empty_map(const Tensor& like, c10::SymIntArrayRef size) {
  return at::empty_symint(size, like.options().memory_format(kLayout));
}

c10::SymDimVector size_of_result(const Tensor& x, const Tensor& weight, int64_t stride) {
  return {x.sym_size(0), weight.sym_size(0), (x.sym_size(2) - 1) / stride + 1,
          (x.sym_size(3) - 1) / stride + 1};
}

std::vector<Tensor> forward(const Tensor& given, TensorList weights,
                            const std::optional<Tensor>& mean, const std::optional<Tensor>& rstd,
                            int64_t stride, int64_t dilation) {
  check_forward(given, weights, mean, rstd, stride, dilation);
  const Tensor x = given.contiguous(kLayout);
  Call call(x.scalar_type(), x.sizes(), mean, rstd, weights[0].size(2), stride, dilation);
  std::vector<Tensor> y;
  for (const Tensor& w : weights) y.push_back(empty_map(x, size_of_result(x, w, stride)));
  call.set_maps(y);
  call.set_weights(weights);
#ifdef SNSOFTMAX_WITH_CUDA
  if (x.is_cuda()) {
    on_device("depthwise", x, 0, [&](void*, void* stream) {
      return depthwise_forward_cuda(call.args, call.images, x.const_data_ptr(), call.edges, stream);
    });
    return y;
  }
#endif
  call.over_images([&](int64_t begin, int64_t end) {
    depthwise_forward_cpu(call.args, x.const_data_ptr(), call.edges, begin, end);
  });
  return y;
}

Tensor backward_map(TensorList grads, TensorList weights, at::IntArrayRef size,
                    const std::optional<Tensor>& given, const std::optional<Tensor>& mean,
                    const std::optional<Tensor>& rstd, int64_t stride, int64_t dilation) {
  check_backward_map(grads, weights, c10::fromIntArrayRefSlow(size), given, mean, rstd, stride,
                     dilation);
  Call call(grads[0].scalar_type(), size, mean, rstd, weights[0].size(2), stride, dilation);
  call.set_gradients(grads);
  call.set_weights(weights);
  const void* const x = given.has_value() ? call.hold(given->contiguous(kLayout)) : nullptr;
  Tensor grad_map = empty_map(grads[0], c10::fromIntArrayRefSlow(size));
#ifdef SNSOFTMAX_WITH_CUDA
  if (grad_map.is_cuda()) {
    on_device("depthwise_backward_map", grad_map, 0, [&](void*, void* stream) {
      return depthwise_backward_map_cuda(call.args, call.images, x, call.edges,
                                         grad_map.mutable_data_ptr(), stream);
    });
    return grad_map;
  }
#endif
  call.over_images([&](int64_t begin, int64_t end) {
    depthwise_backward_map_cpu(call.args, x, call.edges, grad_map.mutable_data_ptr(), begin, end);
  });
  return grad_map;
}

Tensor backward_weight(TensorList grads, const Tensor& given, const std::optional<Tensor>& mean,
                       const std::optional<Tensor>& rstd, int64_t kernel, int64_t stride,
                       int64_t dilation) {
  check_backward_weight(grads, given, mean, rstd, kernel, stride, dilation);
  const Tensor x = given.contiguous(kLayout);
  Call call(x.scalar_type(), x.sizes(), mean, rstd, kernel, stride, dilation);
  call.set_gradients(grads);
  const int64_t filters = call.edges.count * call.args.channels;
  const auto options = x.options().dtype(opmath(x));
#ifdef SNSOFTMAX_WITH_CUDA
  if (x.is_cuda()) {
    if (x.numel() == 0) return at::zeros({filters, 1, kernel, kernel}, options);
    Tensor sums = at::empty({filters, 1, kernel, kernel}, options);
    const auto bytes =
        static_cast<size_t>(depthwise_parts_cuda(call.args, call.images) * sums.numel()) *
        sizeof(double);
    on_device("depthwise_backward_weight", x, bytes, [&](void* parts, void* stream) {
      return depthwise_backward_weight_cuda(call.args, call.images, x.const_data_ptr(), call.edges,
                                            static_cast<double*>(parts), sums.mutable_data_ptr(),
                                            stream);
    });
    return sums;
  }
#endif
  // A fixed number of parts, whatever the threads: the same sums in the same order.
  const int64_t parts = std::min<int64_t>(call.images, 16);
  Tensor sums = at::zeros({std::max<int64_t>(parts, 1), filters, 1, kernel, kernel},
                          options.dtype(at::kDouble));
  double* const data = sums.mutable_data_ptr<double>();
  at::parallel_for(0, x.numel() == 0 ? 0 : parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      depthwise_backward_weight_cpu(call.args, x.const_data_ptr(), call.edges,
                                    data + part * filters * kernel * kernel,
                                    call.images * part / parts, call.images * (part + 1) / parts);
    }
  });
  return sums.sum(0).to(opmath(x));
}

std::vector<Tensor> forward_meta(const Tensor& x, TensorList weights,
                                 const std::optional<Tensor>& mean,
                                 const std::optional<Tensor>& rstd, int64_t stride,
                                 int64_t dilation) {
  check_forward(x, weights, mean, rstd, stride, dilation);
  std::vector<Tensor> y;
  for (const Tensor& w : weights) y.push_back(empty_map(x, size_of_result(x, w, stride)));
  return y;
}

Tensor backward_map_meta(TensorList grads, TensorList weights, c10::SymIntArrayRef size,
                         const std::optional<Tensor>& x, const std::optional<Tensor>& mean,
                         const std::optional<Tensor>& rstd, int64_t stride, int64_t dilation) {
  check_backward_map(grads, weights, size, x, mean, rstd, stride, dilation);
  return empty_map(grads[0], size);
}

Tensor backward_weight_meta(TensorList grads, const Tensor& x, const std::optional<Tensor>& mean,
                            const std::optional<Tensor>& rstd, int64_t kernel, int64_t stride,
                            int64_t dilation) {
  check_backward_weight(grads, x, mean, rstd, kernel, stride, dilation);
  const c10::SymInt filters = grads[0].sym_size(1) * static_cast<int64_t>(grads.size());
  return at::empty_symint({filters, 1, kernel, kernel}, x.options().dtype(opmath(x)));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def(
      "depthwise(Tensor x, Tensor[] weights, Tensor? mean, Tensor? rstd, int stride, int dilation) "
      "-> Tensor[]");
  m.def(
      "depthwise_backward_map(Tensor[] grads, Tensor[] weights, SymInt[] size, Tensor? x, "
      "Tensor? mean, Tensor? rstd, int stride, int dilation) -> Tensor");
  m.def(
      "depthwise_backward_weight(Tensor[] grads, Tensor x, Tensor? mean, Tensor? rstd, int kernel, "
      "int stride, int dilation) -> Tensor");
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) {
  m.impl("depthwise", forward);
  m.impl("depthwise_backward_map", backward_map);
  m.impl("depthwise_backward_weight", backward_weight);
}

#ifdef SNSOFTMAX_WITH_CUDA
TORCH_LIBRARY_IMPL(snsoftmax, CUDA, m) {
  m.impl("depthwise", forward);
  m.impl("depthwise_backward_map", backward_map);
  m.impl("depthwise_backward_weight", backward_weight);
}
#endif

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("depthwise", forward_meta);
  m.impl("depthwise_backward_map", backward_map_meta);
  m.impl("depthwise_backward_weight", backward_weight_meta);
}

}  // namespace snsoftmax
