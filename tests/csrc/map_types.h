// What the tests of kernels on maps know of an element type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/dtype.h"

namespace {

using snsoftmax::DType;

template <class T>
struct Traits {
  using Op = T;
  static constexpr DType dtype = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
  static constexpr double unit = sizeof(T) == 8 ? 0x1p-53 : 0x1p-24;  // of the arithmetic
  static constexpr double store_unit = unit;                          // of the maps
  static double get(T x) { return static_cast<double>(x); }
  static T make(double x) { return static_cast<T>(x); }
};
template <>
struct Traits<__nv_bfloat16> {
  using Op = float;
  static constexpr DType dtype = DType::kBFloat16;
  static constexpr double unit = 0x1p-24;
  static constexpr double store_unit = 0x1p-8;
  static double get(__nv_bfloat16 x) { return static_cast<double>(__bfloat162float(x)); }
  static __nv_bfloat16 make(double x) { return __float2bfloat16_rn(static_cast<float>(x)); }
};
template <>
struct Traits<__half> {
  using Op = float;
  static constexpr DType dtype = DType::kFloat16;
  static constexpr double unit = 0x1p-24;
  static constexpr double store_unit = 0x1p-11;
  static double get(__half x) { return static_cast<double>(__half2float(x)); }
  static __half make(double x) { return __float2half_rn(static_cast<float>(x)); }
};

}  // namespace
