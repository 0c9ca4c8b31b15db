// sn-softmax below autograd: checks, memory layout, kernel calls; the operators' schemas.
#include "sn_softmax.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "../common/device.h"
#include "../common/dtype.h"
#include "result.h"
#include "sn_softmax/sn_softmax.h"

namespace snsoftmax {

namespace {

// ------------------------------------------------------------ checks

void check_number(const char* name, double value) {
  TORCH_CHECK_VALUE(value > 0 && std::isfinite(value), "sn_softmax: ", name,
                    " must be a positive finite number, got ", value, ".");
}

void check_temperature(const char* name, const TemperatureArg& arg, const Tensor& logits,
                       int64_t dim) {
  if (!arg.tensor) return check_number(name, arg.value);
  const Tensor& t = *arg.tensor;
  TORCH_CHECK_TYPE(at::isFloatingType(t.scalar_type()), "sn_softmax: ", name,
                   " must be a floating-point tensor, got ", t.scalar_type(), ".");
  TORCH_CHECK_VALUE(t.device() == logits.device() || (t.dim() == 0 && t.is_cpu()),
                    "sn_softmax: ", name, " must be on the device of the logits, ", logits.device(),
                    ", got ", t.device(), ".");
  bool fits = t.dim() <= logits.dim();
  for (int64_t i = 1; fits && i <= t.dim(); ++i) {
    const bool along_dim = logits.dim() - i == dim;
    fits = t.size(-i) == 1 || (!along_dim && t.size(-i) == logits.size(-i));
  }
  TORCH_CHECK_VALUE(fits, "sn_softmax: ", name, " must be one value, or one a row in a shape that ",
                    "broadcasts to the logits' ", logits.sizes(), " with size 1 in dim ", dim,
                    ", got ", t.sizes(), ".");
  if (!t.is_cpu() || t.numel() == 0) return;
  if (t.numel() == 1) return check_number(name, t.item<double>());
  const auto [low, high] = at::aminmax(t);
  check_number(name, low.item<double>());
  check_number(name, high.item<double>());
}

int64_t wrapped_dim(const Tensor& logits, int64_t dim) {
  const int64_t n = std::max<int64_t>(logits.dim(), 1);
  TORCH_CHECK_INDEX(-n <= dim && dim < n, "sn_softmax: dim must be from ", -n, " to ", n - 1,
                    " for logits of ", logits.dim(), " dimensions, got ", dim, ".");
  return dim < 0 ? dim + n : dim;
}

/// All that can be said without reading a GPU's memory; returns dim, not negative.
int64_t check(const Tensor& logits, const SNSoftmaxParams& params) {
  const auto type = logits.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
      "sn_softmax: logits must be float16, bfloat16, float32 or float64, got ", type, ".");
  const int64_t dim = wrapped_dim(logits, params.dim);
  if (params.scale) {
    TORCH_CHECK_VALUE(*params.scale > 1 && std::isfinite(*params.scale),
                      "sn_softmax: scale must be a finite number above 1, or None, got ",
                      *params.scale, ".");
    TORCH_CHECK_VALUE(
        !params.smooth,
        "sn_softmax: give scale or smooth_temperature, not both, got scale=", *params.scale, ".");
  }
  check_temperature("temperature", params.temperature, logits, dim);
  if (params.smooth) check_temperature("smooth_temperature", *params.smooth, logits, dim);
  return dim;
}

// ------------------------------------------------------------ memory layout

/// A dense tensor as [outer, size, inner] in the order of its memory.
struct Rows {
  int64_t outer = 1;
  int64_t size = 1;
  int64_t inner = 1;
  std::vector<int64_t> shape;    ///< of one value a row: the logits' shape without dim
  std::vector<int64_t> strides;  ///< that put those values in the order of the rows

  int64_t count() const { return outer * inner; }
};

bool one_value_a_row(const std::optional<TemperatureArg>& arg) {
  return arg && arg->tensor && arg->tensor->numel() != 1;
}

/// `row_values`: whether shape and strides are wanted, for an entropy or a temperature a row.
Rows rows_of(const Tensor& dense, int64_t dim, bool row_values) {
  Rows rows;
  if (dense.dim() == 0) return rows;
  rows.size = dense.size(dim);
  // The stride of a dimension of one element is arbitrary; such a row is its own layout.
  if (rows.size > 1) rows.inner = dense.stride(dim);
  rows.outer = dense.numel() == 0 ? 0 : dense.numel() / (rows.size * rows.inner);
  if (!row_values) return rows;
  for (int64_t d = 0; d < dense.dim(); ++d) {
    if (d == dim) continue;
    rows.shape.push_back(dense.size(d));
    const bool outside = rows.size > 1 && dense.stride(d) > rows.inner;
    rows.strides.push_back(outside ? dense.stride(d) / rows.size : dense.stride(d));
  }
  return rows;
}

Tensor dense(const Tensor& t) { return t.is_non_overlapping_and_dense() ? t : t.contiguous(); }

// ------------------------------------------------------------ kernel calls

/// The kernel's arguments, and what they point to.
struct KernelCall {
  SNSoftmaxArgs args;
  Tensor temperature;
  Tensor smooth;
};

Temperature bind(const TemperatureArg& arg, const Tensor& logits, const Rows& rows, int64_t dim,
                 Tensor& keep) {
  const auto type = opmath(logits);
  const auto number = [&](double value) -> Temperature {
    // A positive number that float would round to zero or infinity stays positive and finite.
    if (type == at::kFloat) value = std::clamp<double>(value, FLT_MIN, FLT_MAX);
    return {value, nullptr, 0};
  };
  if (!arg.tensor) return number(arg.value);
  const Tensor& t = *arg.tensor;
  if (t.numel() == 1) {
    if (t.is_cpu()) return number(t.item<double>());
    keep = t.to(type);
    return {0.0, keep.const_data_ptr(), 0};
  }
  std::vector<int64_t> full(logits.sizes().begin(), logits.sizes().end());
  full[dim] = 1;
  keep = at::empty_strided(rows.shape, rows.strides, logits.options().dtype(type));
  keep.copy_(t.expand(full).squeeze(dim));
  return {0.0, keep.const_data_ptr(), 1};
}

KernelCall kernel_call(const Tensor& logits, const SNSoftmaxParams& params, const Rows& rows,
                       int64_t dim) {
  KernelCall call;
  call.args.dtype = *kernel_dtype(logits.scalar_type());
  call.args.outer = rows.outer;
  call.args.size = rows.size;
  call.args.inner = rows.inner;
  call.args.temperature = bind(params.temperature, logits, rows, dim, call.temperature);
  if (params.scale) {
    call.args.smooth = Smooth::kScaled;
    call.args.scale = *params.scale;
  } else if (params.smooth) {
    call.args.smooth = Smooth::kAbsolute;
    call.args.smooth_temperature = bind(*params.smooth, logits, rows, dim, call.smooth);
  }
  return call;
}

/// cpu(begin, end) over ranges of rows, or gpu(workspace, stream) once, as the logits' device asks.
template <class Cpu, class Gpu>
void launch(const Tensor& logits, const SNSoftmaxArgs& args, Cpu cpu, Gpu gpu) {
  if (logits.is_cpu()) {
    constexpr int64_t kElementsPerTask = 16384;
    const int64_t rows = args.outer * args.inner;
    if (rows * args.size <= kElementsPerTask) return cpu(0, rows);
    return at::parallel_for(0, rows, std::max<int64_t>(1, kElementsPerTask / args.size), cpu);
  }
#ifdef SNSOFTMAX_WITH_CUDA
  if (logits.is_cuda()) {
    on_device("sn_softmax", logits, sn_softmax_workspace_cuda(args), gpu);
    return;
  }
#else
  (void)gpu;
#endif
  TORCH_CHECK_NOT_IMPLEMENTED(false, "sn_softmax: this build has no kernel for device ",
                              logits.device(), ".");
}

}  // namespace

std::pair<Tensor, Tensor> forward(const Tensor& input, const SNSoftmaxParams& params,
                                  bool with_entropy) {
  const int64_t dim = check(input, params);
  const Tensor logits = dense(input);
  const bool row_values =
      with_entropy || one_value_a_row(params.temperature) || one_value_a_row(params.smooth);
  const Rows rows = rows_of(logits, dim, row_values);
  const auto row_options = logits.options().dtype(opmath(logits));
  if (logits.numel() == 0) {
    // An entropy is a sum of nothing.
    return {at::empty_like(logits), with_entropy ? at::zeros(rows.shape, row_options) : Tensor()};
  }
  const auto [probs, past_caches] = result_like(logits);
  Tensor entropy;
  if (with_entropy) entropy = at::empty_strided(rows.shape, rows.strides, row_options);
  KernelCall call = kernel_call(logits, params, rows, dim);
  call.args.past_caches = past_caches;
  const void* a = logits.const_data_ptr();
  void* p = probs.mutable_data_ptr();
  void* h = with_entropy ? entropy.mutable_data_ptr() : nullptr;
  launch(
      logits, call.args,
      [&](int64_t begin, int64_t end) { sn_softmax_forward_cpu(call.args, a, p, h, begin, end); },
      [&](void* workspace, void* stream) {
        return sn_softmax_forward_cuda(call.args, a, p, h, workspace, stream);
      });
  if (with_entropy) entropy = entropy.contiguous();
  return {probs, entropy};
}

Tensor backward(const Tensor& grad, const Tensor& grad_entropy, const Tensor& input,
                const SNSoftmaxParams& params) {
  const int64_t dim = check(input, params);
  const Tensor logits = dense(input);
  const bool row_values = grad_entropy.defined() || one_value_a_row(params.temperature) ||
                          one_value_a_row(params.smooth);
  const Rows rows = rows_of(logits, dim, row_values);
  Tensor g = grad;
  if (g.defined()) {
    TORCH_CHECK_VALUE(g.sizes() == logits.sizes() && g.scalar_type() == logits.scalar_type(),
                      "sn_softmax_backward: grad must have the logits' shape and dtype, ",
                      logits.sizes(), " ", logits.scalar_type(), ", got ", g.sizes(), " ",
                      g.scalar_type(), ".");
  }
  Tensor gh = grad_entropy;
  if (gh.defined()) {
    TORCH_CHECK_VALUE(gh.sizes() == at::IntArrayRef(rows.shape),
                      "sn_softmax_backward: grad_entropy must have the shape ",
                      at::IntArrayRef(rows.shape), ", got ", gh.sizes(), ".");
  }
  if (logits.numel() == 0) return at::empty_like(logits);
  if (g.defined() && g.strides() != logits.strides()) g = at::empty_like(logits).copy_(g);
  if (gh.defined()) {
    gh = at::empty_strided(rows.shape, rows.strides, logits.options().dtype(opmath(logits)))
             .copy_(gh);
  }
  const auto [out, past_caches] = result_like(logits);
  KernelCall call = kernel_call(logits, params, rows, dim);
  call.args.past_caches = past_caches;
  const void* gp = g.defined() ? g.const_data_ptr() : nullptr;
  const void* ghp = gh.defined() ? gh.const_data_ptr() : nullptr;
  const void* a = logits.const_data_ptr();
  void* d = out.mutable_data_ptr();
  launch(
      logits, call.args,
      [&](int64_t begin, int64_t end) {
        sn_softmax_backward_cpu(call.args, gp, ghp, a, d, begin, end);
      },
      [&](void* workspace, void* stream) {
        return sn_softmax_backward_cuda(call.args, gp, ghp, a, d, workspace, stream);
      });
  return out;
}

// ------------------------------------------------------------ the operators

SNSoftmaxParams params_of(const Tensor& temperature, const OptionalTensor& smooth,
                          std::optional<double> scale, int64_t dim) {
  SNSoftmaxParams params;
  params.temperature.tensor = temperature;
  if (smooth && smooth->defined()) params.smooth = TemperatureArg{1.0, *smooth};
  params.scale = scale;
  params.dim = dim;
  return params;
}

namespace {

template <class Signature>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

const c10::TypedOperatorHandle<ForwardOp>& forward_op() {
  static const auto op = find<ForwardOp>("snsoftmax::sn_softmax");
  return op;
}
const c10::TypedOperatorHandle<EntropyOp>& entropy_op() {
  static const auto op = find<EntropyOp>("snsoftmax::sn_softmax_entropy");
  return op;
}
const c10::TypedOperatorHandle<BackwardOp>& backward_op() {
  static const auto op = find<BackwardOp>("snsoftmax::sn_softmax_backward");
  return op;
}

namespace {

Tensor eager(const Tensor& logits, const Tensor& temperature, const OptionalTensor& smooth,
             std::optional<double> scale, int64_t dim) {
  return forward(logits, params_of(temperature, smooth, scale, dim), false).first;
}

std::tuple<Tensor, Tensor> eager_entropy(const Tensor& logits, const Tensor& temperature,
                                         const OptionalTensor& smooth, std::optional<double> scale,
                                         int64_t dim) {
  return forward(logits, params_of(temperature, smooth, scale, dim), true);
}

Tensor eager_backward(const OptionalTensor& grad, const OptionalTensor& grad_entropy,
                      const Tensor& logits, const Tensor& temperature, const OptionalTensor& smooth,
                      std::optional<double> scale, int64_t dim) {
  return backward(grad.value_or(Tensor()), grad_entropy.value_or(Tensor()), logits,
                  params_of(temperature, smooth, scale, dim));
}

Tensor meta(const Tensor& logits, const Tensor&, const OptionalTensor&, std::optional<double>,
            int64_t) {
  return at::empty_like(logits, logits.options(),
                        logits.is_non_overlapping_and_dense() ? at::MemoryFormat::Preserve
                                                              : at::MemoryFormat::Contiguous);
}

std::tuple<Tensor, Tensor> meta_entropy(const Tensor& logits, const Tensor& temperature,
                                        const OptionalTensor& smooth, std::optional<double> scale,
                                        int64_t dim) {
  auto shape = logits.sym_sizes().vec();
  if (!shape.empty()) shape.erase(shape.begin() + wrapped_dim(logits, dim));
  return {meta(logits, temperature, smooth, scale, dim),
          at::empty_symint(shape, logits.options().dtype(opmath(logits)))};
}

Tensor meta_backward(const OptionalTensor&, const OptionalTensor&, const Tensor& logits,
                     const Tensor& temperature, const OptionalTensor& smooth,
                     std::optional<double> scale, int64_t dim) {
  return meta(logits, temperature, smooth, scale, dim);
}

/// Autocast computes in float32, as it does for torch.softmax.
template <c10::DispatchKey kKey, c10::DeviceType kDevice>
void add_autocast(torch::Library& m) {
  m.impl("sn_softmax", [](const Tensor& logits, const Tensor& temperature,
                          const OptionalTensor& smooth, std::optional<double> scale, int64_t dim) {
    const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
    return forward_op().call(at::autocast::cached_cast(at::kFloat, logits, kDevice), temperature,
                             smooth, scale, dim);
  });
  m.impl("sn_softmax_entropy",
         [](const Tensor& logits, const Tensor& temperature, const OptionalTensor& smooth,
            std::optional<double> scale, int64_t dim) {
           const c10::impl::ExcludeDispatchKeyGuard guard(kKey);
           return entropy_op().call(at::autocast::cached_cast(at::kFloat, logits, kDevice),
                                    temperature, smooth, scale, dim);
         });
}

void add_eager(torch::Library& m) {
  m.impl("sn_softmax", eager);
  m.impl("sn_softmax_entropy", eager_entropy);
  m.impl("sn_softmax_backward", eager_backward);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def(
      "sn_softmax(Tensor logits, Tensor temperature, Tensor? smooth_temperature, float? scale, "
      "int dim) -> Tensor",
      tags);
  m.def(
      "sn_softmax_entropy(Tensor logits, Tensor temperature, Tensor? smooth_temperature, "
      "float? scale, int dim) -> (Tensor, Tensor)",
      tags);
  m.def(
      "sn_softmax_backward(Tensor? grad, Tensor? grad_entropy, Tensor logits, Tensor temperature, "
      "Tensor? smooth_temperature, float? scale, int dim) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) { add_eager(m); }
#ifdef SNSOFTMAX_WITH_CUDA
TORCH_LIBRARY_IMPL(snsoftmax, CUDA, m) { add_eager(m); }
#endif
TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("sn_softmax", meta);
  m.impl("sn_softmax_entropy", meta_entropy);
  m.impl("sn_softmax_backward", meta_backward);
}
TORCH_LIBRARY_IMPL(snsoftmax, AutocastCPU, m) {
  add_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>(m);
}
TORCH_LIBRARY_IMPL(snsoftmax, AutocastCUDA, m) {
  add_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>(m);
}

}  // namespace snsoftmax
