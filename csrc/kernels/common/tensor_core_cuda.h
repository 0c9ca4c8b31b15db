// What a warp needs to multiply matrices: tensor cores, the loads of their operands from shared
// memory, and copies from global memory to it that go on while the warp computes.
//
// Both operands come from shared memory as rows of 16 bytes along the summed dimension: A's rows
// are its own, B's are its columns. A step takes 32 bytes of each row: 16 values of bfloat16, 8 of
// float, rounded to TF32. So the loads are the same for both.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "common/cuda_types.h"

namespace snsoftmax {
namespace {

constexpr int kStepBytes = 32;  // of a row, in one product
constexpr int kCopyBytes = 16;

/// The address of shared memory as PTX takes it.
#if defined(__CUDACC__)
__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
#endif

/// Copies 16 bytes, or zeros if not `there`; both addresses are multiples of 16. They are there for
/// this thread after wait_for_copies(), for its block after a barrier behind that.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool there) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(there ? kCopyBytes : 0)
               : "memory");
#else
  simt::copy_async(shared, global, there);
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  simt::wait_for_copies();
#endif
}

/// Four matrices of 8 rows of 16 bytes; lane l gives the address of row l % 8 of matrix l / 8.
/// Register j is 4 bytes of matrix j, those that A and B want of this lane.
__device__ __forceinline__ void load_matrices(uint32_t (&registers)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
#else
  simt::load_matrices(registers, row, /*transposed=*/false);
#endif
}

/// The same of the transposed matrices of 8x8 elements of 16 bits.
__device__ __forceinline__ void load_transposed(uint32_t (&registers)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
#else
  simt::load_matrices(registers, row, /*transposed=*/true);
#endif
}

/// One step of products of T, in float. `operand` makes of a loaded register what a product takes,
/// `rectified` the same of max(x, 0), where NaN stays NaN.
template <class T>
struct TensorCore;

template <>
struct TensorCore<__nv_bfloat16> {
  static __device__ __forceinline__ uint32_t operand(uint32_t pair) { return pair; }
  static __device__ __forceinline__ uint32_t rectified(uint32_t pair) {
#if defined(__CUDACC__)
    uint32_t result;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(pair), "r"(0u));
    return result;
#else
    const auto one = [](uint32_t bits) {
      const bool positive = (bits & 0x8000u) == 0;
      return positive || (bits & 0x7fffu) > 0x7f80u ? bits : 0u;
    };
    return one(pair & 0xffffu) | one(pair >> 16) << 16;
#endif
  }
  /// D += A B; A's registers are rows 0-7 and 8-15 of the step's first 16 bytes, then of its last;
  /// B's its first and its last.
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    simt::multiply_bf16(d, a, b);
#endif
  }
};

template <>
struct TensorCore<float> {
  /// To nearest; a product would cut. NaN is kept apart: the conversion is compiled to an addition,
  /// which makes zero of a NaN that has all bits set.
  static __device__ __forceinline__ uint32_t operand(uint32_t word) {
#if defined(__CUDACC__)
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(word)));
#else
    const uint32_t rounded = (word + 0x1000u) & ~0x1fffu;
#endif
    return (word & 0x7fffffffu) > 0x7f800000u ? 0x7fffe000u : rounded;
  }
  static __device__ __forceinline__ uint32_t rectified(uint32_t word) {
    float x;
    std::memcpy(&x, &word, sizeof x);
    x = x < 0.0f ? 0.0f : x;
    std::memcpy(&word, &x, sizeof x);
    return operand(word);
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    simt::multiply_tf32(d, a, b);
#endif
  }
};

}  // namespace
}  // namespace snsoftmax
