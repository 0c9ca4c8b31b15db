// The depthwise convolution's operators: the CPU kernel over threads, the CUDA kernels.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
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
constexpr int64_t kMostDilation = std::numeric_limits<int>::max() / 8;

/// Of a map, in every direction: what the device's kernels take.
void check_map(const char* name, const Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, name, " must be [N, C, H, W], but has ", map.dim(),
                    " dimensions");
  TORCH_CHECK_VALUE(map.sym_size(1) > 0 && map.sym_size(2) > 0 && map.sym_size(3) > 0, name,
                    " must have channels and pixels, but is ", map.sym_sizes());
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble ||
                       map.scalar_type() == at::kBFloat16 ||
                       (map.scalar_type() == at::kHalf && !map.is_cpu()),
                   name, " must be float32, float64, bfloat16 or, on CUDA, float16, but is ",
                   map.scalar_type(), " on ", map.device());
}

void check_windows(TensorList weights, int64_t stride, at::IntArrayRef dilations) {
  TORCH_CHECK_VALUE(stride == 1 || stride == 2, "stride must be 1 or 2, but is ", stride);
  TORCH_CHECK_VALUE(dilations.size() == weights.size(), "there must be a dilation for each of ",
                    weights.size(), " weights, but there are ", dilations.size());
  for (const int64_t dilation : dilations) {
    TORCH_CHECK_VALUE(dilation >= 1 && dilation <= kMostDilation, "dilation must be from 1 to ",
                      kMostDilation, ", but is ", dilation);
  }
}

/// Do the weights share out x's channels, instead of reading all of them?
bool are_apart(const c10::SymInt& channels, TensorList weights) {
  if (weights.size() == 1) return false;
  c10::SymInt sum = 0;
  for (const Tensor& w : weights) sum += w.sym_size(0);
  return sum == channels;
}

/// Each weight holds the kernels of one or several edges, one after the other.
void check_weights(const Tensor& map, const c10::SymInt& channels, TensorList weights) {
  TORCH_CHECK_VALUE(!weights.empty(), "one weight must be given at least");
  for (const Tensor& w : weights) {
    TORCH_CHECK_VALUE(w.device() == map.device(), "a weight is on ", w.device(), ", the map on ",
                      map.device());
    TORCH_CHECK_VALUE(w.dim() == 4 && w.sym_size(1) == 1 && w.sym_size(2) == w.sym_size(3) &&
                          (w.sym_size(2) == 3 || w.sym_size(2) == 5) && w.sym_size(0) > 0,
                      "weights must be [C, 1, k, k] with k 3 or 5, but one has ", w.sym_sizes());
    TORCH_CHECK_TYPE(w.scalar_type() == opmath(map), "weights must be ", opmath(map), " for ",
                     map.scalar_type(), " maps, but one is ", w.scalar_type());
  }
  const bool apart = are_apart(channels, weights);
  c10::SymInt edges = 0;
  for (const Tensor& w : weights) {
    TORCH_CHECK_VALUE(apart || w.sym_size(0) % channels == 0, "weights must have multiples of ",
                      channels, " kernels, or as many together, but one has ", w.sym_sizes());
    edges += apart ? 1 : w.sym_size(0) / channels;
  }
  TORCH_CHECK_VALUE(edges <= kDepthwiseEdges, "at most ", kDepthwiseEdges,
                    " edges can leave a map, but there are ", edges);
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

/// How many of the weights, from `first` on, have their results in `map`.
size_t weights_in(const Tensor& map, TensorList weights, size_t first) {
  c10::SymInt channels = 0;
  size_t count = 0;
  while (first + count < weights.size() && channels < map.sym_size(1)) {
    channels += weights[first + count++].sym_size(0);
  }
  return channels == map.sym_size(1) ? count : 0;
}

/// Of the results of x, whose sizes are given: each of the next few weights.
void check_gradients(TensorList grads, TensorList weights, c10::SymIntArrayRef size,
                     int64_t stride) {
  TORCH_CHECK_VALUE(!grads.empty(), "one gradient must be given at least");
  TORCH_CHECK_VALUE(size.size() == 4 && size[1] > 0, "size must be that of x, but is ", size);
  for (const Tensor& g : grads) check_map("grads", g);
  check_weights(grads[0], size[1], weights);
  size_t found = 0;
  for (const Tensor& g : grads) {
    TORCH_CHECK_TYPE(g.scalar_type() == grads[0].scalar_type(), "grads must have one dtype");
    TORCH_CHECK_VALUE(g.device() == grads[0].device(), "grads must be on one device");
    TORCH_CHECK_VALUE(g.sym_size(0) == size[0] && g.sym_size(2) == (size[2] - 1) / stride + 1 &&
                          g.sym_size(3) == (size[3] - 1) / stride + 1,
                      "a gradient has shape ", g.sym_sizes(), ", which x of ", size,
                      " with stride ", stride, " does not give");
    const size_t mine = weights_in(g, weights, found);
    TORCH_CHECK_VALUE(mine > 0, "a gradient has ", g.sym_size(1),
                      " channels, which are not those of the next weights' results");
    found += mine;
  }
  TORCH_CHECK_VALUE(found == weights.size(), "there must be gradients for ", weights.size(),
                    " weights, but they are for ", found);
}

void check_forward(const Tensor& x, TensorList weights, const std::optional<Tensor>& mean,
                   const std::optional<Tensor>& rstd, int64_t stride, at::IntArrayRef dilations,
                   at::IntArrayRef together) {
  check_map("x", x);
  check_weights(x, x.sym_size(1), weights);
  check_statistics(x, mean, rstd);
  check_windows(weights, stride, dilations);
  int64_t sum = 0;
  for (const int64_t count : together) {
    TORCH_CHECK_VALUE(count > 0, "together must be positive, but one is ", count);
    sum += count;
  }
  TORCH_CHECK_VALUE(sum == static_cast<int64_t>(weights.size()), "together must add up to ",
                    weights.size(), " weights, but is ", together);
}

void check_backward_map(TensorList grads, TensorList weights, c10::SymIntArrayRef size,
                        const std::optional<Tensor>& x, const std::optional<Tensor>& mean,
                        const std::optional<Tensor>& rstd, int64_t stride,
                        at::IntArrayRef dilations) {
  check_windows(weights, stride, dilations);
  check_gradients(grads, weights, size, stride);
  TORCH_CHECK_VALUE(x.has_value() == mean.has_value(), "x, mean and rstd go together");
  if (!x.has_value()) return;
  check_statistics(*x, mean, rstd);
  TORCH_CHECK_VALUE(x->sym_sizes() == size && x->scalar_type() == grads[0].scalar_type() &&
                        x->device() == grads[0].device(),
                    "x must be of size ", size, ", dtype and device as grads are");
}

void check_backward_weight(TensorList grads, const Tensor& x, TensorList weights,
                           const std::optional<Tensor>& mean, const std::optional<Tensor>& rstd,
                           int64_t stride, at::IntArrayRef dilations) {
  check_map("x", x);
  check_windows(weights, stride, dilations);
  check_gradients(grads, weights, x.sym_sizes(), stride);
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
       const std::optional<Tensor>& rstd, TensorList weights, int64_t stride,
       at::IntArrayRef dilations)
      : images(size[0]) {
    args.dtype = *kernel_dtype(dtype);
    args.channels = size[1];
    args.height = size[2];
    args.width = size[3];
    args.stride = stride;
    if (mean.has_value()) {
      args.mean = hold(mean->contiguous());
      args.rstd = hold(rstd->contiguous());
    }
    set_weights(weights, dilations);
  }

  const void* hold(Tensor tensor) {
    held.push_back(std::move(tensor));
    return held.back().const_data_ptr();
  }

  void set_weights(TensorList weights, at::IntArrayRef dilations) {
    edges.apart = are_apart(args.channels, weights);
    int64_t begin = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const Tensor& weight = weights[i];
      const auto* data = static_cast<const char*>(hold(weight.contiguous()));
      DepthwiseEdge edge;
      edge.channels = static_cast<int>(edges.apart ? weight.size(0) : args.channels);
      edge.kernel = static_cast<int>(weight.size(2));
      edge.dilation = static_cast<int>(dilations[i]);
      const int64_t each = edge.channels * edge.taps() * weight.element_size();
      for (int64_t left = weight.size(0); left > 0; left -= edge.channels, data += each) {
        edge.weight = data;
        edge.begin = static_cast<int>(begin);
        if (edges.apart) begin += edge.channels;
        edges.edge[edges.count++] = edge;
      }
    }
  }

  /// Maps of the next edges each, channels_last.
  void set_maps(TensorList maps) {
    int e = 0;
    for (const Tensor& map : maps) {
      char* const data = static_cast<char*>(const_cast<void*>(map.const_data_ptr()));
      for (int64_t channel = 0; channel < map.size(1); channel += edges.edge[e++].channels) {
        edges.edge[e].map = data + channel * map.element_size();
        edges.edge[e].pitch = static_cast<int>(map.size(1));
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

/// Of the results: for each map the next weights', as many as `together` says.
std::vector<Tensor> empty_results(const Tensor& x, TensorList weights, int64_t stride,
                                  at::IntArrayRef together) {
  std::vector<Tensor> maps;
  size_t next = 0;
  for (const int64_t count : together) {
    c10::SymInt channels = 0;
    for (int64_t i = 0; i < count; ++i) channels += weights[next++].sym_size(0);
    maps.push_back(
        empty_map(x, c10::SymDimVector{x.sym_size(0), channels, (x.sym_size(2) - 1) / stride + 1,
                                       (x.sym_size(3) - 1) / stride + 1}));
  }
  return maps;
}

std::vector<Tensor> forward(const Tensor& given, TensorList weights,
                            const std::optional<Tensor>& mean, const std::optional<Tensor>& rstd,
                            int64_t stride, at::IntArrayRef dilations, at::IntArrayRef together) {
  check_forward(given, weights, mean, rstd, stride, dilations, together);
  const Tensor x = given.contiguous(kLayout);
  Call call(x.scalar_type(), x.sizes(), mean, rstd, weights, stride, dilations);
  std::vector<Tensor> y = empty_results(x, weights, stride, together);
  call.set_maps(y);
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
                    const std::optional<Tensor>& rstd, int64_t stride, at::IntArrayRef dilations) {
  check_backward_map(grads, weights, c10::fromIntArrayRefSlow(size), given, mean, rstd, stride,
                     dilations);
  Call call(grads[0].scalar_type(), size, mean, rstd, weights, stride, dilations);
  call.set_gradients(grads);
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

Tensor backward_weight(TensorList grads, const Tensor& given, TensorList weights,
                       const std::optional<Tensor>& mean, const std::optional<Tensor>& rstd,
                       int64_t stride, at::IntArrayRef dilations) {
  check_backward_weight(grads, given, weights, mean, rstd, stride, dilations);
  const Tensor x = given.contiguous(kLayout);
  Call call(x.scalar_type(), x.sizes(), mean, rstd, weights, stride, dilations);
  call.set_gradients(grads);
  const int64_t taps = call.edges.taps_before(call.edges.count);
  const auto options = x.options().dtype(opmath(x));
#ifdef SNSOFTMAX_WITH_CUDA
  if (x.is_cuda()) {
    if (x.numel() == 0) return at::zeros({taps}, options);
    Tensor sums = at::empty({taps}, options);
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
  Tensor sums = at::zeros({std::max<int64_t>(parts, 1), taps}, options.dtype(at::kDouble));
  double* const data = sums.mutable_data_ptr<double>();
  at::parallel_for(0, x.numel() == 0 ? 0 : parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      depthwise_backward_weight_cpu(call.args, x.const_data_ptr(), call.edges, data + part * taps,
                                    call.images * part / parts, call.images * (part + 1) / parts);
    }
  });
  return sums.sum(0).to(opmath(x));
}

std::vector<Tensor> forward_meta(const Tensor& x, TensorList weights,
                                 const std::optional<Tensor>& mean,
                                 const std::optional<Tensor>& rstd, int64_t stride,
                                 at::IntArrayRef dilations, at::IntArrayRef together) {
  check_forward(x, weights, mean, rstd, stride, dilations, together);
  return empty_results(x, weights, stride, together);
}

Tensor backward_map_meta(TensorList grads, TensorList weights, c10::SymIntArrayRef size,
                         const std::optional<Tensor>& x, const std::optional<Tensor>& mean,
                         const std::optional<Tensor>& rstd, int64_t stride,
                         at::IntArrayRef dilations) {
  check_backward_map(grads, weights, size, x, mean, rstd, stride, dilations);
  return empty_map(grads[0], size);
}

Tensor backward_weight_meta(TensorList grads, const Tensor& x, TensorList weights,
                            const std::optional<Tensor>& mean, const std::optional<Tensor>& rstd,
                            int64_t stride, at::IntArrayRef dilations) {
  check_backward_weight(grads, x, weights, mean, rstd, stride, dilations);
  c10::SymInt taps = 0;
  for (const Tensor& w : weights) taps += w.sym_numel();
  return at::empty_symint({taps}, x.options().dtype(opmath(x)));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def(
      "depthwise(Tensor x, Tensor[] weights, Tensor? mean, Tensor? rstd, int stride, "
      "int[] dilations, int[] together) -> Tensor[]");
  m.def(
      "depthwise_backward_map(Tensor[] grads, Tensor[] weights, SymInt[] size, Tensor? x, "
      "Tensor? mean, Tensor? rstd, int stride, int[] dilations) -> Tensor");
  m.def(
      "depthwise_backward_weight(Tensor[] grads, Tensor x, Tensor[] weights, Tensor? mean, "
      "Tensor? rstd, int stride, int[] dilations) -> Tensor");
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
