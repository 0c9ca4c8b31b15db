#include "mixture_checks.h"

#include <c10/util/irange.h>

#include "mixture/mixture.h"

namespace snsoftmax {

void check_maps(const char* name, TensorList maps, const Tensor& like) {
  for (const auto i : c10::irange(maps.size())) {
    const Tensor& map = maps[i];
    TORCH_CHECK_VALUE(map.dim() == 4, name, "[", i, "] must be [N, C, H, W], but has ", map.dim(),
                      " dimensions");
    TORCH_CHECK_TYPE(map.scalar_type() == like.scalar_type(), name, "[", i, "] is ",
                     map.scalar_type(), ", but all maps must have one dtype, here ",
                     like.scalar_type());
    TORCH_CHECK_VALUE(map.device() == like.device(), name, "[", i, "] is on ", map.device(),
                      ", but all maps must be on one device, here ", like.device());
    TORCH_CHECK_VALUE(map.sym_sizes() == like.sym_sizes(), name, "[", i, "] has shape ",
                      map.sym_sizes(), ", but all maps must have one shape, here ",
                      like.sym_sizes());
  }
}

namespace {

void check_vector(const char* name, const Tensor& vector, const c10::SymInt& size,
                  const Tensor& like) {
  TORCH_CHECK_VALUE(vector.dim() == 1 && vector.sym_size(0) == size, name, " must have shape [",
                    size, "], but has ", vector.sym_sizes());
  TORCH_CHECK_TYPE(vector.scalar_type() == opmath(like), name, " must be ", opmath(like), " for ",
                   like.scalar_type(), " maps, but is ", vector.scalar_type());
  TORCH_CHECK_VALUE(vector.device() == like.device(), name, " is on ", vector.device(),
                    ", but the maps are on ", like.device());
}

/// The first map, which the others must be like.
const Tensor& check_all_maps(TensorList normalized, TensorList plain) {
  const size_t maps = normalized.size() + plain.size();
  TORCH_CHECK_VALUE(maps > 0, "mixture needs at least one map, but normalized and plain are empty");
  TORCH_CHECK_VALUE(maps <= kMixtureMaps, "mixture takes at most ", kMixtureMaps,
                    " maps, but normalized and plain have ", maps);
  const Tensor& like = normalized.empty() ? plain[0] : normalized[0];
  TORCH_CHECK_TYPE(like.scalar_type() == at::kFloat || like.scalar_type() == at::kDouble ||
                       like.scalar_type() == at::kBFloat16,
                   "mixture's maps must be float32, float64 or bfloat16, but are ",
                   like.scalar_type());
  check_maps("normalized", normalized, like);
  check_maps("plain", plain, like);
  return like;
}

const Tensor& check_inputs(TensorList normalized, TensorList plain, const Tensor& weights) {
  const Tensor& like = check_all_maps(normalized, plain);
  check_vector("weights", weights, static_cast<int64_t>(normalized.size() + plain.size()), like);
  return like;
}

void check_statistics(const Tensor& mean, const Tensor& rstd, TensorList normalized,
                      const Tensor& like) {
  for (const Tensor& statistic : {mean, rstd}) {
    TORCH_CHECK_VALUE(
        statistic.dim() == 2 && statistic.sym_size(0) == static_cast<int64_t>(normalized.size()) &&
            statistic.sym_size(1) == like.sym_size(1) && statistic.scalar_type() == opmath(like),
        "mean and rstd must be those that mixture returned");
  }
}

void check_running(TensorList normalized, TensorList running_mean, TensorList running_var,
                   bool training, const Tensor& like) {
  TORCH_CHECK_VALUE(running_mean.size() == running_var.size(), "running_mean has ",
                    running_mean.size(), " tensors, but running_var has ", running_var.size());
  TORCH_CHECK_VALUE(running_mean.empty() || running_mean.size() == normalized.size(),
                    "running_mean must have one tensor for each of the ", normalized.size(),
                    " normalized maps, but has ", running_mean.size());
  for (const auto k : c10::irange(running_mean.size())) {
    // Without elements in training: not tracked.
    if (training && running_mean[k].sym_numel() == 0 && running_var[k].sym_numel() == 0) continue;
    check_vector("running_mean", running_mean[k], like.sym_size(1), like);
    check_vector("running_var", running_var[k], like.sym_size(1), like);
    TORCH_CHECK_VALUE(running_mean[k].is_contiguous() && running_var[k].is_contiguous(),
                      "running_mean and running_var must be contiguous, but those of map ", k,
                      " are not");
  }
}

/// A gradient without elements is one that is not wanted.
void check_gradient(const char* name, const Tensor& grad, const Tensor& like) {
  if (grad.sym_numel() != 0) check_maps(name, grad, like);
}

}  // namespace

const Tensor& check_forward(TensorList normalized, TensorList plain, const Tensor& weights,
                            TensorList running_mean, TensorList running_var, bool training) {
  const Tensor& like = check_inputs(normalized, plain, weights);
  check_running(normalized, running_mean, running_var, training, like);
  TORCH_CHECK_VALUE(training || normalized.empty() || !running_mean.empty(),
                    "training=False needs running_mean and running_var");
  if (training && !normalized.empty()) {
    const auto values = like.sym_size(0) * like.sym_size(2) * like.sym_size(3);
    TORCH_CHECK_VALUE(values > 1, "batch statistics need more than one value a channel, but the ",
                      "maps have shape ", like.sym_sizes());
  }
  return like;
}

void check_backward(const Tensor& grad, TensorList normalized, TensorList plain,
                    const Tensor& weights, const Tensor& mean, const Tensor& rstd,
                    TensorList grad_normalized, const BoolList& accumulate_normalized,
                    TensorList grad_plain, const BoolList& accumulate_plain) {
  const Tensor& like = check_inputs(normalized, plain, weights);
  check_maps("grad", grad, like);
  for (const Tensor& g : grad_normalized) check_gradient("grad_normalized", g, like);
  for (const Tensor& g : grad_plain) check_gradient("grad_plain", g, like);
  const auto one_each = [](const char* name, size_t given, size_t wanted) {
    TORCH_CHECK_VALUE(given == 0 || given == wanted, name, " must be empty or have ", wanted,
                      " entries, but has ", given);
  };
  one_each("grad_normalized", grad_normalized.size(), normalized.size());
  one_each("accumulate_normalized", accumulate_normalized.size(), normalized.size());
  one_each("grad_plain", grad_plain.size(), plain.size());
  one_each("accumulate_plain", accumulate_plain.size(), plain.size());
  check_statistics(mean, rstd, normalized, like);
}

const Tensor& check_normalized(TensorList normalized, TensorList running_mean,
                               TensorList running_var) {
  const Tensor& like = check_all_maps(normalized, {});
  check_running(normalized, running_mean, running_var, /*training=*/true, like);
  return like;
}

void check_sums_inputs(const Tensor& grad, TensorList normalized, TensorList plain,
                       const Tensor& mean, const Tensor& rstd) {
  TORCH_CHECK_VALUE(!normalized.empty(), "mixture_sums needs at least one normalized map");
  const Tensor& like = check_all_maps(normalized, plain);
  check_maps("grad", grad, like);
  check_statistics(mean, rstd, normalized, like);
}

void check_sums(const Tensor& sums, const Tensor& mean, bool need_grad_weights) {
  TORCH_CHECK_VALUE(sums.dim() == 2 && sums.sym_size(0) == 1 + mean.sym_size(0) &&
                        sums.sym_size(1) == mean.sym_size(1) && sums.scalar_type() == at::kDouble,
                    "sums must be those that mixture_sums returned");
  TORCH_CHECK_VALUE(!need_grad_weights,
                    "the gradient of the weights comes from mixture_sums, where sums are given");
}

void check_moments(TensorList moments, TensorList normalized) {
  if (moments.empty()) return;
  TORCH_CHECK_VALUE(moments.size() == normalized.size(),
                    "moments must be empty or have one tensor for each of the ", normalized.size(),
                    " normalized maps, but has ", moments.size());
  for (const auto k : c10::irange(moments.size())) {
    const Tensor& m = moments[k];
    if (m.sym_numel() == 0) continue;
    TORCH_CHECK_VALUE(m.dim() == 2 && m.sym_size(0) == 2 &&
                          m.sym_size(1) == normalized[k].sym_size(1) &&
                          m.device() == normalized[k].device() && m.scalar_type() == at::kDouble &&
                          m.is_contiguous(),
                      "moments[", k, "] must be contiguous, float64 and of shape [2, ",
                      normalized[k].sym_size(1), "] on ", normalized[k].device(), ", but is ",
                      m.scalar_type(), " of ", m.sym_sizes(), " on ", m.device());
  }
}

void check_lines(const Tensor& lines, const Tensor& mean) {
  TORCH_CHECK_VALUE(lines.dim() == 3 && lines.sym_size(0) == mean.sym_size(0) &&
                        lines.sym_size(1) == 4 && lines.sym_size(2) == mean.sym_size(1) &&
                        lines.scalar_type() == mean.scalar_type() && lines.is_contiguous() &&
                        !lines.is_cuda(),
                    "lines must be contiguous, ", mean.scalar_type(), " and of shape [",
                    mean.sym_size(0), ", 4, ", mean.sym_size(1), "] on the CPU, but is ",
                    lines.scalar_type(), " of ", lines.sym_sizes(), " on ", lines.device());
}

}  // namespace snsoftmax
