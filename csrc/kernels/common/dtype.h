// The element types of tensors, and the one switch over them.
#pragma once

#include <type_traits>

namespace snsoftmax {

enum class DType : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

/// f(T{}), T being the element type; `Half` and `BFloat16` are the narrow types where the caller
/// runs. An operator that takes no float16 names `void` for it; f then returns nothing, or what it
/// would say of a failed launch.
template <class Half, class BFloat16, class F>
auto with_type(DType dtype, const F& f) -> decltype(f(float{})) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kFloat16:
      if constexpr (!std::is_void<Half>::value) return f(Half{});
      break;
    case DType::kBFloat16:
      return f(BFloat16{});
  }
  if constexpr (!std::is_void<decltype(f(float{}))>::value) {
    return "the element type is none that this operator takes";
  }
}

}  // namespace snsoftmax
