// An element type as the kernels know it.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "common/dtype.h"

namespace snsoftmax {

/// Nothing for a type that no kernel reads.
inline std::optional<DType> kernel_dtype(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kFloat16;
    default:
      return std::nullopt;
  }
}

/// The type that arithmetic on it is done in; statistics and weights have it.
inline at::ScalarType opmath(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}
inline at::ScalarType opmath(const at::Tensor& tensor) { return opmath(tensor.scalar_type()); }

}  // namespace snsoftmax
