// The arguments of the mixture operators. Nothing here reads data, and shapes may be symbolic, so
// that real and fake tensors are refused alike, each in one sentence.
#pragma once

#include <ATen/ATen.h>

#include "../common/dtype.h"

namespace snsoftmax {

using at::Tensor;
using at::TensorList;
using BoolList = c10::List<bool>;

/// Every map has the shape, dtype and device of `like`.
void check_maps(const char* name, TensorList maps, const Tensor& like);

/// Returns the first map, which the others are like.
const Tensor& check_forward(TensorList normalized, TensorList plain, const Tensor& weights,
                            TensorList running_mean, TensorList running_var, bool training);

void check_backward(const Tensor& grad, TensorList normalized, TensorList plain,
                    const Tensor& weights, const Tensor& mean, const Tensor& rstd,
                    TensorList grad_normalized, const BoolList& accumulate_normalized,
                    TensorList grad_plain, const BoolList& accumulate_plain);

/// The first of at least one map to be normalised.
const Tensor& check_normalized(TensorList normalized, TensorList running_mean,
                               TensorList running_var);

void check_sums_inputs(const Tensor& grad, TensorList normalized, TensorList plain,
                       const Tensor& mean, const Tensor& rstd);

/// What mixture_sums returned, to be used instead of the maps' own sums.
void check_sums(const Tensor& sums, const Tensor& mean, bool need_grad_weights);

/// None, or one tensor for each normalised map, without elements where its moments are not known.
void check_moments(TensorList moments, TensorList normalized);

/// Where the lines of the normalised maps' gradients go.
void check_lines(const Tensor& lines, const Tensor& mean);

}  // namespace snsoftmax
