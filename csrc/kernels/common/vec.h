// CPU vectors on GCC's vector extensions: one source for SSE2, AVX2, AVX-512 and anything else that
// GCC or Clang can lower them to. Everything is inlined into a namespace of the capability
// that the file is compiled for, so that no code of a richer instruction set leaks out.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#ifndef SNSOFTMAX_CAPABILITY
#error "compile *_cpu.cpp with -DSNSOFTMAX_CAPABILITY=plain|avx2|avx512|avx512_bf16"
#endif

#define SNSOFTMAX_INLINE inline __attribute__((always_inline))

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

using VecF = float __attribute__((vector_size(kVectorBytes)));
using VecI = int32_t __attribute__((vector_size(kVectorBytes)));
using VecU = uint32_t __attribute__((vector_size(kVectorBytes)));
using VecD = double __attribute__((vector_size(kVectorBytes)));
using VecL = int64_t __attribute__((vector_size(kVectorBytes)));
using VecH = uint16_t __attribute__((vector_size(kVectorBytes / 2)));  // as many lanes as VecF

/// Opmath: the type that arithmetic on T is done in, its vector and its mask.
template <class T>
struct Op {
  using scalar = float;
  using vector = VecF;
  using mask = VecI;
};
template <>
struct Op<double> {
  using scalar = double;
  using vector = VecD;
  using mask = VecL;
};

template <class T>
using Scalar = typename Op<T>::scalar;
template <class T>
using Vector = typename Op<T>::vector;

template <class T>
constexpr int kLanes = kVectorBytes / sizeof(typename Op<T>::scalar);

SNSOFTMAX_INLINE VecF select(VecI mask, VecF a, VecF b) { return mask ? a : b; }
SNSOFTMAX_INLINE VecD select(VecL mask, VecD a, VecD b) { return mask ? a : b; }

// ---- loads and stores, any alignment, converting to and from opmath ----

SNSOFTMAX_INLINE VecF load(const float* p) {
  VecF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SNSOFTMAX_INLINE VecD load(const double* p) {
  VecD v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
// GCC converts these two widths in halves, at five instructions; the processors have one for it.
SNSOFTMAX_INLINE VecU widen(VecH h) {
#if defined(__AVX512F__)
  return (VecU)_mm512_cvtepu16_epi32((__m256i)h);
#elif defined(__AVX2__)
  return (VecU)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, VecU);
#endif
}
SNSOFTMAX_INLINE VecH narrow(VecU u) {
#if defined(__AVX512F__)
  return (VecH)_mm512_cvtepi32_epi16((__m512i)u);
#else
  return __builtin_convertvector(u, VecH);
#endif
}
SNSOFTMAX_INLINE VecF load(const BFloat16* p) {
  VecH h;
  std::memcpy(&h, p, sizeof h);
  return reinterpret_cast<VecF>(widen(h) << 16);
}
SNSOFTMAX_INLINE void store(float* p, VecF v) { std::memcpy(p, &v, sizeof v); }
SNSOFTMAX_INLINE void store(double* p, VecD v) { std::memcpy(p, &v, sizeof v); }
/// The bfloat16 nearest to v (ties to even) in the upper half of each lane; the lower is anything.
SNSOFTMAX_INLINE VecU rounded_to_bfloat16(VecF v) {
  const VecU u = reinterpret_cast<VecU>(v);
  const VecU half = 0x7fffu + ((u >> 16) & 1u);
  // Rounding could carry a NaN into infinity. Arithmetic makes quiet NaNs only, which stay ones
  // without their lower half.
#if defined(__AVX512F__)
  const __mmask16 number = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_ORD_Q);
  return (VecU)_mm512_mask_add_epi32((__m512i)u, number, (__m512i)u, (__m512i)half);
#else
  const VecI number = v == v;
  return u + (reinterpret_cast<VecU>(number) & half);
#endif
}
SNSOFTMAX_INLINE VecH in_memory(BFloat16, VecF v) {
#if defined(__AVX512BF16__)
  return (VecH)_mm512_cvtneps_pbh((__m512)v);  // takes subnormal numbers for zero
#else
  return narrow(rounded_to_bfloat16(v) >> 16);
#endif
}
SNSOFTMAX_INLINE void store(BFloat16* p, VecF v) {
  const VecH h = in_memory(BFloat16{}, v);
  std::memcpy(p, &h, sizeof h);
}

/// sum + the products of both bfloat16 numbers of each lane, of which the first is the lower.
SNSOFTMAX_INLINE VecF add_products(VecF sum, VecU a, VecU b) {
#if defined(__AVX512BF16__)
  return (VecF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  const auto low = [](VecU v) { return reinterpret_cast<VecF>(v << 16); };
  const auto high = [](VecU v) { return reinterpret_cast<VecF>(v & 0xffff0000u); };
  return sum + low(a) * low(b) + high(a) * high(b);
#endif
}

/// In each lane the bfloat16 nearest to a's, and above it the one nearest to b's.
SNSOFTMAX_INLINE VecU bfloat16_pairs(VecF a, VecF b) {
#if defined(__AVX512BF16__)
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  const VecU lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (VecU)_mm512_permutexvar_epi16((__m512i)(lanes | (lanes + 16) << 16), halves);
#else
  return rounded_to_bfloat16(a) >> 16 | (rounded_to_bfloat16(b) & 0xffff0000u);
#endif
}

#if defined(__AVX512F__)
SNSOFTMAX_INLINE VecF load(const Half* p) {
  return (VecF)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SNSOFTMAX_INLINE VecH in_memory(Half, VecF v) {
  return (VecH)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
SNSOFTMAX_INLINE VecF load(const Half* p) {
  return (VecF)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
SNSOFTMAX_INLINE VecH in_memory(Half, VecF v) {
  return (VecH)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
}
#else
SNSOFTMAX_INLINE VecF load(const Half* p) {
  VecH h;
  std::memcpy(&h, p, sizeof h);
  const VecU u = __builtin_convertvector(h, VecU);
  const VecU sign = (u & 0x8000u) << 16;
  const VecU magnitude = (u & 0x7fffu) << 13;
  // Denormals and normals alike: scale the bits, read as float, by 2^(127 - 15).
  VecF value = reinterpret_cast<VecF>(magnitude) * 0x1p112f;
  const VecI special = (magnitude >= (0x7c00u << 13));  // infinity and NaN
  value = special ? reinterpret_cast<VecF>(magnitude | 0x7f800000u) : value;
  return reinterpret_cast<VecF>(reinterpret_cast<VecU>(value) | sign);
}
SNSOFTMAX_INLINE VecH in_memory(Half, VecF v) {
  const VecU bits = reinterpret_cast<VecU>(v);
  const VecU sign = (bits >> 16) & 0x8000u;
  const VecU magnitude = bits & 0x7fffffffu;
  // Rebias, then round to nearest even on the 13 bits that go.
  const VecU normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the addition of 0.5 aligns the denormal's last bit with the float's, rounding it.
  const VecF half = reinterpret_cast<VecF>(magnitude) + 0.5f;
  const VecU denormal = reinterpret_cast<VecU>(half) - 0x3f000000u;
  VecU out = (magnitude < (113u << 23)) ? denormal : normal;
  out = (magnitude >= 0x477ff000u) ? (VecU{} + 0x7c00u) : out;
  out = (magnitude > 0x7f800000u) ? (VecU{} + 0x7e00u) : out;
  return __builtin_convertvector(out | sign, VecH);
}
#endif
SNSOFTMAX_INLINE void store(Half* p, VecF v) {
  const VecH h = in_memory(Half{}, v);
  std::memcpy(p, &h, sizeof h);
}

// ---- stores past the caches: p on a multiple of the bytes stored; then stream_fence() ----

#if defined(__AVX512F__)
SNSOFTMAX_INLINE void stream(float* p, VecF v) { _mm512_stream_ps(p, (__m512)v); }
SNSOFTMAX_INLINE void stream(double* p, VecD v) { _mm512_stream_pd(p, (__m512d)v); }
template <class T>
SNSOFTMAX_INLINE void stream(T* p, VecF v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)in_memory(T{}, v));
}
SNSOFTMAX_INLINE void stream_fence() { _mm_sfence(); }
#elif defined(__AVX2__)
SNSOFTMAX_INLINE void stream(float* p, VecF v) { _mm256_stream_ps(p, (__m256)v); }
SNSOFTMAX_INLINE void stream(double* p, VecD v) { _mm256_stream_pd(p, (__m256d)v); }
template <class T>
SNSOFTMAX_INLINE void stream(T* p, VecF v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)in_memory(T{}, v));
}
SNSOFTMAX_INLINE void stream_fence() { _mm_sfence(); }
#else
template <class T>
SNSOFTMAX_INLINE void stream(T* p, typename Op<T>::vector v) {
  store(p, v);
}
SNSOFTMAX_INLINE void stream_fence() {}
#endif
/// Whether stream() may write to p.
template <class T>
SNSOFTMAX_INLINE bool can_stream(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (kLanes<T> * sizeof(T)) == 0;
}

/// Asks memory for the line of p, to be read or written soon.
SNSOFTMAX_INLINE void prefetch(const void* p) {
  asm volatile(""
               : "+r"(p));  // GCC takes a loop of nothing but prefetches for one that does nothing
  __builtin_prefetch(p, 1);
}

/// The first n lanes from memory, the others `fill`.
template <class T>
SNSOFTMAX_INLINE typename Op<T>::vector load_first(const T* p, int64_t n,
                                                   typename Op<T>::scalar fill) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 4) {
    return (VecF)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, p);
  } else if constexpr (sizeof(T) == 8) {
    return (VecD)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>(mask), p);
  } else {
    T buffer[kLanes<T>];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(buffer), _mm256_maskz_loadu_epi16(mask, p));
    return (VecF)_mm512_mask_mov_ps(_mm512_set1_ps(fill), mask, (__m512)load(buffer));
  }
#else
  T buffer[kLanes<T>] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  auto v = load(buffer);
  for (int64_t i = n; i < kLanes<T>; ++i) v[i] = fill;
  return v;
#endif
}
template <class T>
SNSOFTMAX_INLINE void store_first(T* p, int64_t n, typename Op<T>::vector v) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << n) - 1);
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, mask, (__m512)v);
  } else if constexpr (sizeof(T) == 8) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), (__m512d)v);
  } else {
    T buffer[kLanes<T>];
    store(buffer, v);
    _mm256_mask_storeu_epi16(p, mask, _mm256_loadu_si256(reinterpret_cast<__m256i*>(buffer)));
  }
#else
  T buffer[kLanes<T>];
  store(buffer, v);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
#endif
}

// ---- exchange of lanes: every index is a constant, or GCC would build it at run time ----

template <class V>
using Lanes = std::make_integer_sequence<int, sizeof(V) / sizeof(decltype(V{}[0]))>;

/// Lane i is lane kLane[i] of a followed by b.
template <int... kLane, class V>
SNSOFTMAX_INLINE V pick(V a, V b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kLane...);
#else
  using Index = decltype(a < b);
  return __builtin_shuffle(a, b, Index{kLane...});
#endif
}

template <class V, int... i>
SNSOFTMAX_INLINE void deinterleave(V& a, V& b, std::integer_sequence<int, i...>) {
  const V evens = pick<(2 * i)...>(a, b);
  b = pick<(2 * i + 1)...>(a, b);
  a = evens;
}
/// a becomes the even, b the odd elements of a followed by b.
template <class V>
SNSOFTMAX_INLINE void deinterleave(V& a, V& b) {
  deinterleave(a, b, Lanes<V>{});
}

template <class V, int... i>
SNSOFTMAX_INLINE void interleave(V& a, V& b, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i);
  const V low = pick<(i / 2 + i % 2 * n)...>(a, b);
  b = pick<(i / 2 + i % 2 * n + n / 2)...>(a, b);
  a = low;
}
/// Undoes deinterleave.
template <class V>
SNSOFTMAX_INLINE void interleave(V& a, V& b) {
  interleave(a, b, Lanes<V>{});
}

template <int kDistance, class V, int... i>
SNSOFTMAX_INLINE V swap_lanes(V v, std::integer_sequence<int, i...>) {
  return pick<(i ^ kDistance)...>(v, v);
}
/// All lanes combined by f, in every lane.
template <class V, class F, int kDistance = static_cast<int>(Lanes<V>::size() / 2)>
SNSOFTMAX_INLINE V across_lanes(V v, F f) {
  if constexpr (kDistance == 0) {
    return v;
  } else {
    const V both = f(v, swap_lanes<kDistance>(v, Lanes<V>{}));
    return across_lanes<V, F, kDistance / 2>(both, f);
  }
}
template <class V>
SNSOFTMAX_INLINE auto sum(V v) {
  return across_lanes(v, [](V a, V b) { return a + b; })[0];
}
/// The largest lane; NaN is for the caller to find in the sum that follows.
template <class V>
SNSOFTMAX_INLINE auto highest(V v) {
  return across_lanes(v, [](V a, V b) { return a < b ? b : a; })[0];
}

// ---- 2^z for -127 <= z <= 0 (double: -1023); an exact zero at the lower end ----

// The addend is 1.5 * 2^23 (double: 2^52), which leaves the nearest integer in the low bits, plus
// the exponent's bias: shifted up, those bits are 2^n, and at the lower end zero.
SNSOFTMAX_INLINE VecF exp2_nonpositive(VecF z) {
  const VecF shifted = z + 12583039.0f;
  const VecF r = z - (shifted - 12583039.0f);
  VecF y = r * 1.545316295e-4f + 1.339086336e-3f;  // minimax on [-1/2, 1/2]: 5e-9
  y = y * r + 9.618082557e-3f;
  y = y * r + 5.550357114e-2f;
  y = y * r + 2.402265076e-1f;
  y = y * r + 6.931471880e-1f;
  y = y * r + 1.0f;
  // A product, not an addition to the exponent's bits: a NaN must stay one.
  return y * reinterpret_cast<VecF>(reinterpret_cast<VecU>(shifted) << 23);
}

SNSOFTMAX_INLINE VecD exp2_nonpositive(VecD z) {
  const VecD shifted = z + 6755399441056767.0;
  const VecD r = z - (shifted - 6755399441056767.0);
  VecD y = r * 2.57293241773623042e-11 + 4.45581790833606449e-10;  // minimax: 1e-19
  y = y * r + 7.05489730415549928e-9;
  y = y * r + 1.01780570877339411e-7;
  y = y * r + 1.32154868087055628e-6;
  y = y * r + 1.52527338415567726e-5;
  y = y * r + 1.54035303933707334e-4;
  y = y * r + 1.33335581464064707e-3;
  y = y * r + 9.61812910762847949e-3;
  y = y * r + 5.5504108664821627e-2;
  y = y * r + 2.40226506959100712e-1;
  y = y * r + 6.93147180559945309e-1;
  y = y * r + 1.0;
  return y * reinterpret_cast<VecD>(reinterpret_cast<VecL>(shifted) << 52);
}

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax
