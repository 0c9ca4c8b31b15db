// Stands in for CUDA's <cuda_fp16.h>: the type, its conversions, and nothing else.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half h) {
  const float sign = (h.bits & 0x8000u) ? -1.0f : 1.0f;
  const int exponent = h.bits >> 10 & 0x1f;
  const int fraction = h.bits & 0x3ff;
  if (exponent == 0x1f) return fraction != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction + 0x400), exponent - 25);
}

/// To nearest, ties to even.
inline __half __float2half_rn(float f) {
  const uint16_t sign = std::signbit(f) ? 0x8000u : 0;
  if (std::isnan(f)) return {0x7fff};
  const float magnitude = std::fabs(f);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00u)};
  // The spacing of halves around f; below 2^-14 it is that of the denormals.
  int exponent = -14;
  if (magnitude >= 0x1p-14f) exponent = std::ilogb(magnitude);
  const float steps = std::nearbyint(std::ldexp(magnitude, 10 - exponent));
  const int biased = (exponent + 14) << 10;  // a carry out of the fraction raises the exponent
  return {static_cast<uint16_t>(sign | (biased + static_cast<int>(steps)))};
}

inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
