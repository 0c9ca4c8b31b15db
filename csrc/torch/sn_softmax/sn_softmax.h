// sn-softmax on tensors: what the dispatcher, autograd and the Python module share.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <tuple>
#include <utility>

namespace snsoftmax {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

/// A temperature as the caller gave it: a number, or a tensor (0-d or one value a row).
struct TemperatureArg {
  double value = 1.0;
  OptionalTensor tensor = std::nullopt;
};

/// The parameters of one call; at most one of `scale` and `smooth` is set.
struct SNSoftmaxParams {
  TemperatureArg temperature;
  std::optional<double> scale;           ///< s of Eq. 7: st = s * t
  std::optional<TemperatureArg> smooth;  ///< st itself
  int64_t dim = -1;
};

SNSoftmaxParams params_of(const Tensor& temperature, const OptionalTensor& smooth,
                          std::optional<double> scale, int64_t dim);

/// softmax(logits / t) and, where `with_entropy`, each row's entropy in nats (float32, or float64
/// for float64 logits), in the shape of the logits without `dim`. Below autograd.
///
/// Throws TypeError, ValueError or IndexError, in one sentence, where a call cannot be computed.
/// Temperatures on a GPU are not read: a value that is not positive makes its rows NaN.
std::pair<Tensor, Tensor> forward(const Tensor& logits, const SNSoftmaxParams& params,
                                  bool with_entropy);

/// The gradient of the logits (Eq. 8); an undefined gradient counts as zero. Below autograd.
Tensor backward(const Tensor& grad, const Tensor& grad_entropy, const Tensor& logits,
                const SNSoftmaxParams& params);

/// What the operators do, autograd included, past the dispatcher where nothing needs it.
std::pair<Tensor, Tensor> sn_softmax(const Tensor& logits, const SNSoftmaxParams& params,
                                     bool with_entropy);

// ------------------------------------------------------------ the operators in the dispatcher

using ForwardOp = Tensor(const Tensor& logits, const Tensor& temperature,
                         const OptionalTensor& smooth, std::optional<double> scale, int64_t dim);
using EntropyOp = std::tuple<Tensor, Tensor>(const Tensor& logits, const Tensor& temperature,
                                             const OptionalTensor& smooth,
                                             std::optional<double> scale, int64_t dim);
using BackwardOp = Tensor(const OptionalTensor& grad, const OptionalTensor& grad_entropy,
                          const Tensor& logits, const Tensor& temperature,
                          const OptionalTensor& smooth, std::optional<double> scale, int64_t dim);

const c10::TypedOperatorHandle<ForwardOp>& forward_op();
const c10::TypedOperatorHandle<EntropyOp>& entropy_op();
const c10::TypedOperatorHandle<BackwardOp>& backward_op();

}  // namespace snsoftmax
