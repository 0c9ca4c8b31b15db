// The mixture operators: their schemas and the allocation of outputs.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "../common/device.h"
#include "../common/dtype.h"
#include "mixture/mixture.h"
#include "mixture_checks.h"
#include "mixture_threads.h"

namespace snsoftmax {

namespace {

// ---- maps as the kernels see them ----

/// Elements between pixels, where channels are adjacent and pixels evenly spaced; else 0.
int64_t pixel_stride(const Tensor& map) {
  if (map.size(1) > 1 && map.stride(1) != 1) return 0;
  int64_t stride = 0;
  int64_t inner = 1;  // pixels inside the current dimension
  for (const int64_t d : {3, 2, 0}) {
    if (map.size(d) > 1) {
      if (stride == 0) stride = map.stride(d);
      if (map.stride(d) != stride * inner) return 0;
    }
    inner *= map.size(d);
  }
  if (stride == 0) return map.size(1);
  return stride >= map.size(1) ? stride : 0;
}

/// Maps for reading; owns the copies of those that are not laid out as the kernels need.
class Maps {
 public:
  MixtureMap read(const Tensor& map) {
    int64_t stride = pixel_stride(map);
    const Tensor* from = &map;
    if (stride == 0) {
      copies_.push_back(map.contiguous(at::MemoryFormat::ChannelsLast));
      from = &copies_.back();
      stride = map.size(1);
    }
    return {const_cast<void*>(from->const_data_ptr()), stride};
  }

 private:
  std::vector<Tensor> copies_;
};

MixtureMap writable(const char* name, const Tensor& map) {
  const int64_t stride = pixel_stride(map);
  TORCH_CHECK_VALUE(stride != 0, name,
                    " must be channels_last or a slice of its channels, but has ", "strides ",
                    map.strides());
  return {map.mutable_data_ptr(), stride};
}

MixtureArgs arguments(const Tensor& like, TensorList normalized, TensorList plain, Maps& maps) {
  MixtureArgs args;
  args.dtype = *kernel_dtype(like.scalar_type());
  args.channels = like.size(1);
  args.pixels = like.size(0) * like.size(2) * like.size(3);
  args.normalized = static_cast<int>(normalized.size());
  args.plain = static_cast<int>(plain.size());
  MixtureMap* map = args.maps;
  for (const Tensor& y : normalized) *map++ = maps.read(y);
  for (const Tensor& x : plain) *map++ = maps.read(x);
  return args;
}

MixtureRunning running_statistics(TensorList running_mean, TensorList running_var) {
  MixtureRunning running;
  for (const auto k : c10::irange(running_mean.size())) {
    if (running_mean[k].numel() == 0) continue;
    running.mean[k] = running_mean[k].mutable_data_ptr();
    running.var[k] = running_var[k].mutable_data_ptr();
  }
  return running;
}

MixtureMoments known_moments(TensorList moments) {
  MixtureMoments known;
  for (const auto k : c10::irange(moments.size())) {
    if (moments[k].numel() > 0) known.of[k] = moments[k].const_data_ptr<double>();
  }
  return known;
}

MixtureGradients gradient_maps(TensorList grad_normalized, const BoolList& accumulate_normalized,
                               TensorList grad_plain, const BoolList& accumulate_plain,
                               size_t normalized) {
  MixtureGradients gradients;
  const auto add = [&](const char* name, TensorList grads, const BoolList& accumulate,
                       size_t first) {
    for (const auto i : c10::irange(grads.size())) {
      if (grads[i].numel() == 0) continue;
      gradients.maps[first + i] = writable(name, grads[i]);
      if (!accumulate.empty() && accumulate[i]) gradients.accumulate |= uint64_t{1} << (first + i);
    }
  };
  add("grad_normalized", grad_normalized, accumulate_normalized, 0);
  add("grad_plain", grad_plain, accumulate_plain, normalized);
  return gradients;
}

// ---- either device ----

std::tuple<Tensor, Tensor, Tensor> forward(TensorList normalized, TensorList plain,
                                           const Tensor& weights, TensorList running_mean,
                                           TensorList running_var, TensorList moments,
                                           bool training, double momentum, double eps,
                                           const std::optional<Tensor>& rectified) {
  const Tensor& like =
      check_forward(normalized, plain, weights, running_mean, running_var, training);
  if (rectified.has_value()) check_maps("rectified", *rectified, like);
  check_moments(moments, normalized);
  Maps maps;
  const MixtureArgs args = arguments(like, normalized, plain, maps);
  const auto running = running_statistics(running_mean, running_var);
  const Tensor w = weights.contiguous();
  Tensor out = at::empty(like.sizes(), like.options(), at::MemoryFormat::ChannelsLast);
  Tensor mean = at::empty({args.normalized, args.channels}, like.options().dtype(opmath(like)));
  Tensor rstd = at::empty_like(mean);
  const MixtureMap to = writable("out", out);
  const MixtureMap also = rectified.has_value() ? writable("rectified", *rectified) : MixtureMap{};
#ifdef SNSOFTMAX_WITH_CUDA
  if (like.is_cuda()) {
    on_device("mixture", like, mixture_workspace_cuda(args), [&](void* workspace, void* stream) {
      return mixture_forward_cuda(args, w.const_data_ptr(), known_moments(moments), running,
                                  training, momentum, eps, mean.mutable_data_ptr(),
                                  rstd.mutable_data_ptr(), to, also, workspace, stream);
    });
    return {std::move(out), std::move(mean), std::move(rstd)};
  }
#endif
  forward_cpu(args, w.const_data_ptr(), running, training, momentum, eps, mean.mutable_data_ptr(),
              rstd.mutable_data_ptr(), to, also, moments);
  return {std::move(out), std::move(mean), std::move(rstd)};
}

Tensor backward(const Tensor& grad, TensorList normalized, TensorList plain, const Tensor& weights,
                const Tensor& mean, const Tensor& rstd, TensorList grad_normalized,
                const BoolList& accumulate_normalized, TensorList grad_plain,
                const BoolList& accumulate_plain, bool need_grad_weights, bool training,
                const std::optional<Tensor>& sums, const std::optional<Tensor>& lines) {
  check_backward(grad, normalized, plain, weights, mean, rstd, grad_normalized,
                 accumulate_normalized, grad_plain, accumulate_plain);
  if (sums.has_value()) check_sums(*sums, mean, need_grad_weights);
  if (lines.has_value()) check_lines(*lines, mean);
  Maps maps;
  const MixtureArgs args = arguments(grad, normalized, plain, maps);
  const auto gradients = gradient_maps(grad_normalized, accumulate_normalized, grad_plain,
                                       accumulate_plain, normalized.size());
  const MixtureMap g = maps.read(grad);
  const Tensor w = weights.contiguous();
  const Tensor mean_c = mean.contiguous();
  const Tensor rstd_c = rstd.contiguous();
  Tensor grad_weights =
      at::empty({need_grad_weights ? args.normalized + args.plain : 0}, weights.options());
  void* const dw = need_grad_weights ? grad_weights.mutable_data_ptr() : nullptr;
  const std::optional<Tensor> sums_c =
      sums.has_value() ? std::make_optional(sums->contiguous()) : std::nullopt;
  const double* const given = sums_c.has_value() ? sums_c->const_data_ptr<double>() : nullptr;
#ifdef SNSOFTMAX_WITH_CUDA
  if (grad.is_cuda()) {
    TORCH_CHECK_VALUE(!lines.has_value(), "lines are for maps on the CPU");
    on_device("mixture", grad, mixture_workspace_cuda(args), [&](void* workspace, void* stream) {
      return mixture_backward_cuda(args, w.const_data_ptr(), mean_c.const_data_ptr(),
                                   rstd_c.const_data_ptr(), g, gradients, given, dw, training,
                                   workspace, stream);
    });
    return grad_weights;
  }
#endif
  backward_cpu(args, w.const_data_ptr(), mean_c.const_data_ptr(), rstd_c.const_data_ptr(), g,
               gradients, given, dw, training, lines ? lines->mutable_data_ptr() : nullptr);
  return grad_weights;
}

// ---- the first pass of each way alone, for batches shared out over processes and for readers
// that normalise what they read ----

std::tuple<Tensor, Tensor> statistics(TensorList normalized, TensorList running_mean,
                                      TensorList running_var, double momentum, double eps) {
  const Tensor& like = check_normalized(normalized, running_mean, running_var);
  const auto running = running_statistics(running_mean, running_var);
  Maps maps;
  const MixtureArgs args = arguments(like, normalized, {}, maps);
  Tensor mean = at::empty({args.normalized, args.channels}, like.options().dtype(opmath(like)));
  Tensor rstd = at::empty_like(mean);
#ifdef SNSOFTMAX_WITH_CUDA
  if (like.is_cuda()) {
    on_device("mixture", like, mixture_workspace_cuda(args), [&](void* workspace, void* stream) {
      return mixture_forward_cuda(args, nullptr, {}, running, /*training=*/true, momentum, eps,
                                  mean.mutable_data_ptr(), rstd.mutable_data_ptr(), {}, {},
                                  workspace, stream);
    });
    return {std::move(mean), std::move(rstd)};
  }
#endif
  statistics_cpu(args, {}, running, momentum, eps, mean.mutable_data_ptr(),
                 rstd.mutable_data_ptr());
  return {std::move(mean), std::move(rstd)};
}

std::tuple<Tensor, Tensor> sums(const Tensor& grad, TensorList normalized, TensorList plain,
                                const Tensor& mean, const Tensor& rstd, bool need_grad_weights) {
  check_sums_inputs(grad, normalized, plain, mean, rstd);
  Maps maps;
  const MixtureArgs args = arguments(grad, normalized, plain, maps);
  const MixtureMap g = maps.read(grad);
  const Tensor mean_c = mean.contiguous();
  const Tensor rstd_c = rstd.contiguous();
  Tensor totals =
      at::empty({1 + args.normalized, args.channels}, grad.options().dtype(at::kDouble));
  Tensor grad_weights =
      at::empty({need_grad_weights ? args.normalized + args.plain : 0}, mean.options());
  void* const dw = need_grad_weights ? grad_weights.mutable_data_ptr() : nullptr;
#ifdef SNSOFTMAX_WITH_CUDA
  if (grad.is_cuda()) {
    on_device("mixture", grad, mixture_workspace_cuda(args), [&](void* workspace, void* stream) {
      return mixture_sums_cuda(args, mean_c.const_data_ptr(), rstd_c.const_data_ptr(), g,
                               totals.mutable_data_ptr<double>(), dw, workspace, stream);
    });
    return {std::move(totals), std::move(grad_weights)};
  }
#endif
  const std::vector<double> found =
      sums_cpu(args, mean_c.const_data_ptr(), rstd_c.const_data_ptr(), g, dw);
  std::copy_n(found.data(), totals.numel(), totals.mutable_data_ptr<double>());
  return {std::move(totals), std::move(grad_weights)};
}

// ---- fake tensors ----

std::tuple<Tensor, Tensor, Tensor> forward_meta(TensorList normalized, TensorList plain,
                                                const Tensor& weights, TensorList running_mean,
                                                TensorList running_var, TensorList moments,
                                                bool training, double, double,
                                                const std::optional<Tensor>& rectified) {
  const Tensor& like =
      check_forward(normalized, plain, weights, running_mean, running_var, training);
  if (rectified.has_value()) check_maps("rectified", *rectified, like);
  check_moments(moments, normalized);
  const auto options = like.options();
  Tensor mean = at::empty_symint({static_cast<int64_t>(normalized.size()), like.sym_size(1)},
                                 options.dtype(opmath(like)));
  Tensor rstd = at::empty_like(mean);
  return {at::empty_symint(like.sym_sizes(), options, at::MemoryFormat::ChannelsLast),
          std::move(mean), std::move(rstd)};
}

Tensor backward_meta(const Tensor& grad, TensorList normalized, TensorList plain,
                     const Tensor& weights, const Tensor& mean, const Tensor& rstd,
                     TensorList grad_normalized, const BoolList& accumulate_normalized,
                     TensorList grad_plain, const BoolList& accumulate_plain,
                     bool need_grad_weights, bool, const std::optional<Tensor>& sums,
                     const std::optional<Tensor>& lines) {
  check_backward(grad, normalized, plain, weights, mean, rstd, grad_normalized,
                 accumulate_normalized, grad_plain, accumulate_plain);
  if (sums.has_value()) check_sums(*sums, mean, need_grad_weights);
  if (lines.has_value()) check_lines(*lines, mean);
  const size_t maps = need_grad_weights ? normalized.size() + plain.size() : 0;
  return at::empty({static_cast<int64_t>(maps)}, weights.options());
}

std::tuple<Tensor, Tensor> statistics_meta(TensorList normalized, TensorList running_mean,
                                           TensorList running_var, double, double) {
  const Tensor& like = check_normalized(normalized, running_mean, running_var);
  Tensor mean = at::empty_symint({static_cast<int64_t>(normalized.size()), like.sym_size(1)},
                                 like.options().dtype(opmath(like)));
  Tensor rstd = at::empty_like(mean);
  return {std::move(mean), std::move(rstd)};
}

std::tuple<Tensor, Tensor> sums_meta(const Tensor& grad, TensorList normalized, TensorList plain,
                                     const Tensor& mean, const Tensor& rstd,
                                     bool need_grad_weights) {
  check_sums_inputs(grad, normalized, plain, mean, rstd);
  const size_t maps = need_grad_weights ? normalized.size() + plain.size() : 0;
  return {at::empty_symint({static_cast<int64_t>(1 + normalized.size()), grad.sym_size(1)},
                           grad.options().dtype(at::kDouble)),
          at::empty({static_cast<int64_t>(maps)}, mean.options())};
}

// ---- `mixture` is `mixture_forward` with a gradient, which mixture_autograd.cpp adds ----

template <auto kForward>
std::tuple<Tensor, Tensor, Tensor> differentiable(TensorList normalized, TensorList plain,
                                                  const Tensor& weights, TensorList running_mean,
                                                  TensorList running_var, bool training,
                                                  double momentum, double eps) {
  return kForward(normalized, plain, weights, running_mean, running_var, {}, training, momentum,
                  eps, std::nullopt);
}

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def(
      "mixture(Tensor[] normalized, Tensor[] plain, Tensor weights, Tensor(a!)[] running_mean, "
      "Tensor(b!)[] running_var, bool training, float momentum, float eps) "
      "-> (Tensor out, Tensor mean, Tensor rstd)");
  m.def(
      "mixture_forward(Tensor[] normalized, Tensor[] plain, Tensor weights, "
      "Tensor(a!)[] running_mean, Tensor(b!)[] running_var, Tensor[] moments, bool training, "
      "float momentum, float eps, Tensor(c!)? rectified=None) -> (Tensor out, Tensor mean, Tensor "
      "rstd)");
  m.def(
      "mixture_backward(Tensor grad, Tensor[] normalized, Tensor[] plain, Tensor weights, "
      "Tensor mean, Tensor rstd, Tensor(a!)[] grad_normalized, bool[] accumulate_normalized, "
      "Tensor(b!)[] grad_plain, bool[] accumulate_plain, bool need_grad_weights, bool training, "
      "Tensor? sums=None, Tensor(c!)? lines=None) -> Tensor grad_weights");
  m.def(
      "mixture_statistics(Tensor[] normalized, Tensor(a!)[] running_mean, "
      "Tensor(b!)[] running_var, float momentum=0.0, float eps=0.0) "
      "-> (Tensor mean, Tensor rstd)");
  m.def(
      "mixture_sums(Tensor grad, Tensor[] normalized, Tensor[] plain, Tensor mean, Tensor rstd, "
      "bool need_grad_weights) -> (Tensor sums, Tensor grad_weights)");
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) {
  m.impl("mixture", differentiable<forward>);
  m.impl("mixture_forward", forward);
  m.impl("mixture_backward", backward);
  m.impl("mixture_statistics", statistics);
  m.impl("mixture_sums", sums);
}

#ifdef SNSOFTMAX_WITH_CUDA
TORCH_LIBRARY_IMPL(snsoftmax, CUDA, m) {
  m.impl("mixture", differentiable<forward>);
  m.impl("mixture_forward", forward);
  m.impl("mixture_backward", backward);
  m.impl("mixture_statistics", statistics);
  m.impl("mixture_sums", sums);
}
#endif

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("mixture", differentiable<forward_meta>);
  m.impl("mixture_forward", forward_meta);
  m.impl("mixture_backward", backward_meta);
  m.impl("mixture_statistics", statistics_meta);
  m.impl("mixture_sums", sums_meta);
}

}  // namespace
}  // namespace snsoftmax
