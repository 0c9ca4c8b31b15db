// The arithmetic of depthwise convolution, for the CPU's vector types and for a CUDA thread alike:
// which value a tap reads, how large a result is, and which numbers are taken at all.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace snsoftmax {

SN_HOST_DEVICE constexpr bool depthwise_takes(int64_t kernel) { return kernel == 3 || kernel == 5; }

/// Zeros around a map, such that stride 1 keeps its size.
SN_HOST_DEVICE constexpr int depthwise_padding(int kernel, int dilation) {
  return dilation * (kernel - 1) / 2;
}

/// Results along a side of `size` values.
SN_HOST_DEVICE constexpr int64_t depthwise_results(int64_t size, int64_t stride) {
  return (size - 1) / stride + 1;
}

/// Along one side: which value of the map tap `tap` of result `at` reads. Below 0 or at the map's
/// size and beyond it is padding.
template <class I>
SN_HOST_DEVICE I depthwise_source(I at, I tap, I stride, I dilation, I padding) {
  return stride * at + dilation * tap - padding;
}

/// The other way round: the result whose tap `tap` reads value `at` of the map; below 0 where
/// `stride` passes it by. It may also lie before the first, below 0 then, or past the last.
template <class I>
SN_HOST_DEVICE I depthwise_reader(I at, I tap, I stride, I dilation, I padding) {
  const I spread = at + padding - dilation * tap;
  return spread % stride == 0 ? spread / stride : I(-1);
}

/// sum + value tap; `V` is a number or a register of them.
template <class V>
SN_HOST_DEVICE V add_tap(V sum, V value, V tap) {
  return sum + value * tap;
}

/// max((x - mean) rstd, 0); keeps a NaN.
template <class V>
SN_HOST_DEVICE V rectified(V x, V mean, V rstd) {
  const V normalized = (x - mean) * rstd;
  return normalized < V{} ? V{} : normalized;
}

/// The gradient of what was rectified, from that of the result `u`.
template <class V>
SN_HOST_DEVICE V gated(V grad, V u) {
  return u > V{} ? grad : V{};
}

}  // namespace snsoftmax
