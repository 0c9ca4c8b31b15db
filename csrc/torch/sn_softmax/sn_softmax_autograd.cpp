// Derivatives of sn-softmax of any order, reverse and forward.
#include <torch/csrc/autograd/FunctionsManual.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <mutex>

#include "../common/node.h"
#include "sn_softmax.h"

namespace snsoftmax {

namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

Tensor as_tensor(const TemperatureArg& arg) {
  return arg.tensor ? *arg.tensor : at::scalar_tensor(arg.value, at::kDouble);
}
OptionalTensor as_tensor(const std::optional<TemperatureArg>& arg) {
  return arg ? OptionalTensor(as_tensor(*arg)) : std::nullopt;
}

Tensor call_backward(const Tensor& grad, const Tensor& grad_entropy, const Tensor& logits,
                     const SNSoftmaxParams& p) {
  const auto optional = [](const Tensor& t) {
    return t.defined() ? OptionalTensor(t) : std::nullopt;
  };
  return backward_op().call(optional(grad), optional(grad_entropy), logits,
                            as_tensor(p.temperature), as_tensor(p.smooth), p.scale, p.dim);
}

// ------------------------------------------------------------ second order, from ATen's operators

Tensor dot(const Tensor& a, const Tensor& b, int64_t dim) { return (a * b).sum(dim, true); }

/// J_x v = p (v - <p, v>).
Tensor jacobian(const Tensor& p, const Tensor& v, int64_t dim) { return p * (v - dot(p, v, dim)); }

/// d/dA <v, J g> / t for constant v and g. Symmetric, so it is also what a tangent v adds to J g /
/// t.
Tensor curvature(const Tensor& p, const Tensor& v, const Tensor& g, const Tensor& t, int64_t dim) {
  return jacobian(p, v * g - dot(p, g, dim) * v - dot(p, v, dim) * g, dim) / (t * t);
}

/// The derivatives of the backward, contracted with v, of the logits' shape. Differentiable.
class Second {
 public:
  Second(const Tensor& v, const Tensor& grad, const Tensor& grad_entropy, const Tensor& logits,
         const SNSoftmaxParams& params)
      : v_(v), grad_(grad), grad_entropy_(grad_entropy), logits_(logits), dim_(params.dim) {
    const Tensor t = as_tensor(params.temperature);
    t_ = t.to(logits.options());
    p_ = softmax_at(t);
    if (params.scale || params.smooth) {
      const Tensor st = params.scale ? t * *params.scale : *as_tensor(params.smooth);
      st_ = st.to(logits.options());
      q_ = softmax_at(st);
    }
    if (grad_entropy.defined()) {
      // A saturated entry contributes nothing, though its z may be -inf.
      z_ = at::where(p_ == 0, at::zeros_like(p_), (logits - logits.amax(dim_, true).detach()) / t_);
    }
  }

  /// Contracted over the logits: their gradient, or their tangent's share.
  Tensor by_logits() const {
    Tensor at_t = grad_.defined() ? grad_ : at::zeros_like(logits_);
    Tensor out;
    if (grad_entropy_.defined()) {
      const Tensor gh = grad_entropy_.to(logits_.scalar_type()).unsqueeze(dim_);
      out = -gh * jacobian(p_, v_, dim_) / (t_ * t_);
      at_t = at_t - gh * z_;
    }
    const Tensor sharp = curvature(p_, v_, at_t, t_, dim_);
    out = out.defined() ? out + sharp : sharp;
    if (q_.defined() && grad_.defined()) out = out + curvature(q_, v_, grad_, st_, dim_);
    return out;
  }

  /// Contracted over the entropy's gradient.
  Tensor by_grad_entropy() const {
    return -dot(jacobian(p_, z_, dim_) / t_, v_, dim_)
                .squeeze(dim_)
                .to(grad_entropy_.scalar_type());
  }

 private:
  Tensor softmax_at(const Tensor& temperature) const {
    return forward_op().call(logits_, temperature, std::nullopt, std::nullopt, dim_);
  }

  const Tensor &v_, &grad_, &grad_entropy_, &logits_;
  int64_t dim_;
  Tensor t_, st_, p_, q_, z_;
};

// ------------------------------------------------------------ nodes

/// The parameters as a node keeps them: their tensors are checked for in-place changes.
class SavedParams {
 public:
  explicit SavedParams(const SNSoftmaxParams& params) : params_(params) {
    if (params.temperature.tensor) temperature_ = SavedVariable(*params.temperature.tensor, false);
    if (params.smooth && params.smooth->tensor) {
      smooth_ = SavedVariable(*params.smooth->tensor, false);
    }
  }
  SNSoftmaxParams unpack() const {
    SNSoftmaxParams params = params_;
    if (params.temperature.tensor) params.temperature.tensor = temperature_.unpack();
    if (params.smooth && params.smooth->tensor) params.smooth->tensor = smooth_.unpack();
    return params;
  }

 private:
  SNSoftmaxParams params_;
  SavedVariable temperature_, smooth_;
};

struct SNSoftmaxBackwardBackward : Node {
  SavedVariable grad, grad_entropy, logits;
  std::optional<SavedParams> params;

  std::string name() const override { return "SNSoftmaxBackwardBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    grad.reset_data();
    grad_entropy.reset_data();
    logits.reset_data();
  }

  // Next edges: those of grad, grad_entropy and logits.
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list out(3);
    if (!grads[0].defined()) return out;
    const Tensor g = grad.unpack(), gh = grad_entropy.unpack(), a = logits.unpack();
    const SNSoftmaxParams p = params->unpack();
    // J is symmetric: grad's gradient is the same product.
    if (task_should_compute_output(0)) out[0] = call_backward(grads[0], Tensor(), a, p);
    if (task_should_compute_output(1) || task_should_compute_output(2)) {
      const Second second(grads[0], g, gh, a, p);
      if (task_should_compute_output(1)) out[1] = second.by_grad_entropy();
      if (task_should_compute_output(2)) out[2] = second.by_logits();
    }
    return out;
  }
};

struct SNSoftmaxBackward : Node {
  SavedVariable logits;
  std::optional<SavedParams> params;

  std::string name() const override { return "SNSoftmaxBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    logits.reset_data();
  }

  // The gradients of the distribution and, where there is one, of its entropy.
  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Tensor& g = grads[0];
    const Tensor gh = grads.size() > 1 ? grads[1] : Tensor();
    if (!g.defined() && !gh.defined()) return {Tensor()};
    const Tensor a = logits.unpack();
    const SNSoftmaxParams p = params->unpack();
    const bool direct = !at::GradMode::is_enabled() && plain(a) && plain(g.defined() ? g : gh);
    return {direct ? backward(g, gh, a, p) : call_backward(g, gh, a, p)};
  }
};

// ------------------------------------------------------------ the Autograd kernels

void check_constant(const char* name, const std::optional<TemperatureArg>& arg) {
  TORCH_CHECK_VALUE(
      !at::GradMode::is_enabled() || !arg || !arg->tensor || !arg->tensor->requires_grad(),
      "sn_softmax: ", name, " is not differentiated, got a tensor that requires grad; detach it.");
}

Tensor primal_of(const Tensor& t) {
  return t.defined() ? torch::autograd::generated::details::toNonOptPrimal(t) : t;
}
Tensor tangent_of(const Tensor& t) {
  return t.defined() ? torch::autograd::generated::details::toNonOptFwGrad(t) : t;
}

/// Runs `compute` and records it for both modes of differentiation.
template <class Compute>
std::pair<Tensor, Tensor> recorded(const Tensor& logits, const SNSoftmaxParams& params,
                                   Compute compute) {
  check_constant("temperature", params.temperature);
  check_constant("smooth_temperature", params.smooth);
  NodePtr node;
  if (at::GradMode::is_enabled() && logits.requires_grad()) {
    auto gradient = make_node<SNSoftmaxBackward>();
    gradient->set_next_edges(torch::autograd::collect_next_edges(logits));
    gradient->logits = SavedVariable(logits, false);
    gradient->params.emplace(params);
    node = std::move(gradient);
  }
  auto [probs, entropy] = compute();
  if (node) {
    torch::autograd::set_history(probs, node);
    if (entropy.defined()) torch::autograd::set_history(entropy, node);
  }
  if (torch::autograd::isFwGradDefined(logits)) {
    const Tensor a = primal_of(logits), da = tangent_of(logits);
    probs._set_fw_grad(call_backward(da, Tensor(), a, params), 0, false);
    if (entropy.defined()) {
      const Tensor slope = call_backward(Tensor(), at::ones_like(entropy), a, params);
      entropy._set_fw_grad((slope * da).sum(params.dim).to(entropy.scalar_type()), 0, false);
    }
  }
  return {probs, entropy};
}

Tensor autograd(c10::DispatchKeySet keys, const Tensor& logits, const Tensor& temperature,
                const OptionalTensor& smooth, std::optional<double> scale, int64_t dim) {
  const auto compute = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return std::make_pair(forward_op().redispatch(keys & c10::after_autograd_keyset, logits,
                                                  temperature, smooth, scale, dim),
                          Tensor());
  };
  return recorded(logits, params_of(temperature, smooth, scale, dim), compute).first;
}

std::tuple<Tensor, Tensor> autograd_entropy(c10::DispatchKeySet keys, const Tensor& logits,
                                            const Tensor& temperature, const OptionalTensor& smooth,
                                            std::optional<double> scale, int64_t dim) {
  const auto compute = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [probs, entropy] = entropy_op().redispatch(keys & c10::after_autograd_keyset, logits,
                                                    temperature, smooth, scale, dim);
    return std::make_pair(probs, entropy);
  };
  return recorded(logits, params_of(temperature, smooth, scale, dim), compute);
}

Tensor autograd_backward(c10::DispatchKeySet keys, const OptionalTensor& grad,
                         const OptionalTensor& grad_entropy, const Tensor& logits,
                         const Tensor& temperature, const OptionalTensor& smooth,
                         std::optional<double> scale, int64_t dim) {
  const SNSoftmaxParams params = params_of(temperature, smooth, scale, dim);
  check_constant("temperature", params.temperature);
  check_constant("smooth_temperature", params.smooth);
  const Tensor g = grad.value_or(Tensor()), gh = grad_entropy.value_or(Tensor());
  NodePtr node;
  if (torch::autograd::compute_requires_grad(g, gh, logits)) {
    auto second = make_node<SNSoftmaxBackwardBackward>();
    second->set_next_edges(torch::autograd::collect_next_edges(g, gh, logits));
    second->grad = SavedVariable(g, false);
    second->grad_entropy = SavedVariable(gh, false);
    second->logits = SavedVariable(logits, false);
    second->params.emplace(params);
    node = std::move(second);
  }
  Tensor out = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return backward_op().redispatch(keys & c10::after_autograd_keyset, grad, grad_entropy, logits,
                                    temperature, smooth, scale, dim);
  }();
  if (node) torch::autograd::set_history(out, node);
  const Tensor dg = tangent_of(g), dgh = tangent_of(gh), da = tangent_of(logits);
  if (dg.defined() || dgh.defined() || da.defined()) {
    const Tensor a = primal_of(logits), pg = primal_of(g), pgh = primal_of(gh);
    Tensor tangent;
    if (dg.defined() || dgh.defined()) tangent = call_backward(dg, dgh, a, params);
    if (da.defined()) {
      const Tensor curved = Second(da, pg, pgh, a, params).by_logits();
      tangent = tangent.defined() ? tangent + curved : curved;
    }
    out._set_fw_grad(tangent, 0, false);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(snsoftmax, Autograd, m) {
  m.impl("sn_softmax", autograd);
  m.impl("sn_softmax_entropy", autograd_entropy);
  m.impl("sn_softmax_backward", autograd_backward);
}

std::pair<Tensor, Tensor> sn_softmax(const Tensor& logits, const SNSoftmaxParams& params,
                                     bool with_entropy) {
  if (plain(logits)) {
    return recorded(logits, params, [&] { return forward(logits, params, with_entropy); });
  }
  const Tensor t = as_tensor(params.temperature);
  const OptionalTensor st = as_tensor(params.smooth);
  if (with_entropy) {
    auto [probs, entropy] = entropy_op().call(logits, t, st, params.scale, params.dim);
    return {probs, entropy};
  }
  return {forward_op().call(logits, t, st, params.scale, params.dim), Tensor()};
}

}  // namespace snsoftmax
