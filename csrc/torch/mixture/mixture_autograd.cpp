// The derivatives of `mixture`.
//
// First order in plain eager and under AOT autograd: the `mixture_backward` kernel. Under
// create_graph, functorch's grad and forward mode: a composition of ATen operators, which is
// differentiable as often as one likes. Both need one projection, the Jacobian of batch norm, which
// is symmetric:
//
//   J v = rstd (v - mean(v) - yhat mean(yhat v))        (evaluation: rstd v)
#include <ATen/ATen.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "../common/node.h"

namespace snsoftmax {

namespace {

using at::Tensor;
using at::TensorList;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// ---- the composition ----

struct Normalized {
  Tensor yhat;
  Tensor rstd;
  bool training;

  /// mean_k and rstd_k, [C], are used in evaluation; in training they are functions of y.
  Normalized(const Tensor& map, const Tensor& mean_k, const Tensor& rstd_k, bool training_,
             double eps)
      : training(training_) {
    const Tensor y = map.to(mean_k.scalar_type());
    if (training) {
      const Tensor centred = y - average(y);
      rstd = (average(centred.square()) + eps).rsqrt();
      yhat = centred * rstd;
    } else {
      rstd = rstd_k.reshape({1, -1, 1, 1});
      yhat = (y - mean_k.reshape({1, -1, 1, 1})) * rstd;
    }
  }

  Tensor jacobian(const Tensor& v) const {
    if (!training) return rstd * v;
    return rstd * (v - average(v) - yhat * average(yhat * v));
  }

  static Tensor average(const Tensor& map) { return map.mean({0, 2, 3}, /*keepdim=*/true); }
};

// ---- the kernels, through the dispatcher ----

std::tuple<Tensor, Tensor, Tensor> call_forward(TensorList normalized, TensorList plain,
                                                const Tensor& weights, TensorList running_mean,
                                                TensorList running_var, bool training,
                                                double momentum, double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("snsoftmax::mixture", "")
                             .typed<std::tuple<Tensor, Tensor, Tensor>(
                                 TensorList, TensorList, const Tensor&, TensorList, TensorList,
                                 bool, double, double)>();
  return op.call(normalized, plain, weights, running_mean, running_var, training, momentum, eps);
}

Tensor call_backward(const Tensor& grad, TensorList normalized, TensorList plain,
                     const Tensor& weights, const Tensor& mean, const Tensor& rstd,
                     TensorList grad_normalized, TensorList grad_plain, bool need_grad_weights,
                     bool training) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("snsoftmax::mixture_backward", "")
          .typed<Tensor(const Tensor&, TensorList, TensorList, const Tensor&, const Tensor&,
                        const Tensor&, TensorList, const c10::List<bool>&, TensorList,
                        const c10::List<bool>&, bool, bool, const std::optional<Tensor>&,
                        const std::optional<Tensor>&)>();
  const c10::List<bool> overwrite;
  return op.call(grad, normalized, plain, weights, mean, rstd, grad_normalized, overwrite,
                 grad_plain, overwrite, need_grad_weights, training, std::nullopt, std::nullopt);
}

// ---- the node: inputs are the normalised maps, the plain maps, the weights ----

std::vector<Tensor> unpack(const std::vector<SavedVariable>& saved) {
  std::vector<Tensor> tensors;
  tensors.reserve(saved.size());
  for (const SavedVariable& s : saved) tensors.push_back(s.unpack());
  return tensors;
}

struct MixtureBackward : Node {
  std::vector<SavedVariable> normalized;
  std::vector<SavedVariable> plain;  // empty where the weights need no gradient
  size_t plain_maps = 0;
  SavedVariable weights;
  SavedVariable mean;
  SavedVariable rstd;
  bool training = true;
  double eps = 0.0;

  std::string name() const override { return "MixtureBackward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& s : normalized) s.reset_data();
    for (SavedVariable& s : plain) s.reset_data();
    weights.reset_data();
    mean.reset_data();
    rstd.reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    variable_list inputs(normalized.size() + plain_maps + 1);
    const Tensor& grad = grads[0];
    if (!grad.defined()) return inputs;
    const std::vector<Tensor> ys = unpack(normalized);
    // Only the gradient of the weights reads the plain maps; elsewhere any map of the shape will
    // do.
    const std::vector<Tensor> xs =
        plain.empty() ? std::vector<Tensor>(plain_maps, grad) : unpack(plain);
    const Tensor w = weights.unpack();
    const bool differentiable =
        at::GradMode::is_enabled() || torch::autograd::isFwGradDefined(grad) ||
        torch::autograd::isFwGradDefined(w) || torch::autograd::isFwGradDefinedTensorList(ys) ||
        torch::autograd::isFwGradDefinedTensorList(xs);
    if (differentiable) {
      composite(grad, ys, xs, w, inputs);
    } else {
      fused(grad, ys, xs, w, inputs);
    }
    return inputs;
  }

 private:
  bool needs(size_t first, size_t count) {
    for (size_t i = first; i < first + count; ++i) {
      if (task_should_compute_output(i)) return true;
    }
    return false;
  }

  void fused(const Tensor& grad, TensorList ys, TensorList xs, const Tensor& w,
             variable_list& inputs) {
    // One tensor a map, without elements where its gradient is not wanted; none if none is.
    const auto allocate = [&](TensorList maps, size_t first) {
      std::vector<Tensor> grads;
      if (!needs(first, maps.size())) return grads;
      for (size_t i = 0; i < maps.size(); ++i) {
        grads.push_back(needs(first + i, 1)
                            ? at::empty_symint(maps[i].sym_sizes(), maps[i].options(),
                                               at::MemoryFormat::ChannelsLast)
                            : at::empty({0}, maps[i].options()));
      }
      return grads;
    };
    const std::vector<Tensor> grad_ys = allocate(ys, 0);
    const std::vector<Tensor> grad_xs = allocate(xs, ys.size());
    const bool need_grad_weights = needs(ys.size() + xs.size(), 1);
    Tensor grad_w = call_backward(grad, ys, xs, w, mean.unpack(), rstd.unpack(), grad_ys, grad_xs,
                                  need_grad_weights, training);
    const auto hand_out = [&](const std::vector<Tensor>& grads, size_t first) {
      for (size_t i = 0; i < grads.size(); ++i) {
        if (needs(first + i, 1)) inputs[first + i] = grads[i];
      }
    };
    hand_out(grad_ys, 0);
    hand_out(grad_xs, ys.size());
    if (need_grad_weights) inputs.back() = std::move(grad_w);
  }

  void composite(const Tensor& grad, TensorList ys, TensorList xs, const Tensor& w,
                 variable_list& inputs) {
    const Tensor means = mean.unpack();
    const Tensor rstds = rstd.unpack();
    const Tensor g = grad.to(means.scalar_type());
    const bool need_grad_weights = needs(ys.size() + xs.size(), 1);
    std::vector<Tensor> grad_w;
    for (size_t k = 0; k < ys.size(); ++k) {
      const auto i = static_cast<int64_t>(k);
      const Normalized y(ys[k], means.select(0, i), rstds.select(0, i), training, eps);
      if (needs(k, 1)) inputs[k] = (w.select(0, i) * y.jacobian(g)).to(ys[k].scalar_type());
      if (need_grad_weights) grad_w.push_back((g * y.yhat).sum());
    }
    for (size_t l = 0; l < xs.size(); ++l) {
      const size_t i = ys.size() + l;
      if (needs(i, 1)) {
        inputs[i] = (w.select(0, static_cast<int64_t>(i)) * g).to(xs[l].scalar_type());
      }
      if (need_grad_weights) grad_w.push_back((g * xs[l]).sum());
    }
    if (need_grad_weights) inputs.back() = at::stack(grad_w);
  }
};

// ---- forward mode ----

/// The tangent of out, given those of its inputs; undefined where none has one.
Tensor tangent(TensorList normalized, TensorList plain, const Tensor& weights, const Tensor& mean,
               const Tensor& rstd, bool training, double eps) {
  const auto tangent_of = [](const Tensor& t) { return t._fw_grad(/*level=*/0); };
  const auto primal = [](const Tensor& t) { return t._fw_primal(/*level=*/0); };
  const Tensor dw = tangent_of(weights);
  const Tensor w = primal(weights);
  Tensor total;
  const auto add = [&total](const Tensor& term) { total = total.defined() ? total + term : term; };
  for (size_t k = 0; k < normalized.size(); ++k) {
    const auto i = static_cast<int64_t>(k);
    const Tensor dy = tangent_of(normalized[k]);
    if (!dy.defined() && !dw.defined()) continue;
    const Normalized y(primal(normalized[k]), mean.select(0, i), rstd.select(0, i), training, eps);
    if (dy.defined()) add(w.select(0, i) * y.jacobian(dy.to(mean.scalar_type())));
    if (dw.defined()) add(dw.select(0, i) * y.yhat);
  }
  for (size_t l = 0; l < plain.size(); ++l) {
    const auto i = static_cast<int64_t>(normalized.size() + l);
    const Tensor dx = tangent_of(plain[l]);
    if (dx.defined()) add(w.select(0, i) * dx.to(mean.scalar_type()));
    if (dw.defined()) add(dw.select(0, i) * primal(plain[l]));
  }
  return total;
}

// ---- the Autograd kernel ----

bool any_requires_grad(TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const Tensor& t) { return t.requires_grad(); });
}

std::tuple<Tensor, Tensor, Tensor> forward_autograd(TensorList normalized, TensorList plain,
                                                    const Tensor& weights, TensorList running_mean,
                                                    TensorList running_var, bool training,
                                                    double momentum, double eps) {
  using torch::autograd::increment_version;
  using torch::autograd::isFwGradDefined;
  using torch::autograd::isFwGradDefinedTensorList;
  decltype(make_node<MixtureBackward>()) node;
  if (at::GradMode::is_enabled() &&
      (weights.requires_grad() || any_requires_grad(normalized) || any_requires_grad(plain))) {
    node = make_node<MixtureBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(normalized, plain, weights));
    for (const Tensor& y : normalized) node->normalized.emplace_back(y, false);
    node->plain_maps = plain.size();
    if (weights.requires_grad()) {
      for (const Tensor& x : plain) node->plain.emplace_back(x, false);
    }
    node->weights = SavedVariable(weights, false);
    node->training = training;
    node->eps = eps;
  }
  std::tuple<Tensor, Tensor, Tensor> result = [&] {
    at::AutoDispatchBelowADInplaceOrView guard;
    return call_forward(normalized, plain, weights, running_mean, running_var, training, momentum,
                        eps);
  }();
  auto& [out, mean, rstd] = result;
  if (training) {
    for (const Tensor& statistic : running_mean) increment_version(statistic);
    for (const Tensor& statistic : running_var) increment_version(statistic);
  }
  if (node) {
    torch::autograd::set_history(out, node);
    node->mean = SavedVariable(mean, false);
    node->rstd = SavedVariable(rstd, false);
  }
  if (isFwGradDefined(weights) || isFwGradDefinedTensorList(normalized) ||
      isFwGradDefinedTensorList(plain)) {
    const Tensor dout = tangent(normalized, plain, weights, mean, rstd, training, eps);
    if (dout.defined()) {
      out._set_fw_grad(dout.to(out.scalar_type()), /*level=*/0, /*is_inplace_op=*/false);
    }
  }
  return result;
}

TORCH_LIBRARY_IMPL(snsoftmax, Autograd, m) { m.impl("mixture", forward_autograd); }

}  // namespace
}  // namespace snsoftmax
