// Stands in for CUDA's <cuda_runtime.h> so that g++ compiles a .cu file as it is. Under a
// sanitizer every CUDA thread is an operating-system thread, so ThreadSanitizer sees a missing
// barrier as a data race and AddressSanitizer an index that leaves its buffer (crew.h). Blocks run
// one after another, those of a cluster together.
//
// Only what the kernels use is here. All 32 lanes of a warp must take part in every warp operation,
// every thread of a block in every __syncthreads(), and a block is a whole number of warps. C++20.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time (no cluster), so one copy per kernel will do

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

inline constinit thread_local uint3 threadIdx{};
inline constinit thread_local uint3 blockIdx{};
inline constinit thread_local dim3 blockDim{};
inline constinit thread_local dim3 gridDim{};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMaxThreadsPerBlock,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
};

namespace simt {

/// What cudaDeviceGetAttribute reports. Tests shrink it so that small tensors reach every regime.
struct Device {
  int max_threads = 1024;
  int multiprocessors = 132;
  int shared_per_block = 227 << 10;
  int shared_per_multiprocessor = 228 << 10;
  int capability = 9;  // the major one
};
extern Device device;

/// Blocks and threads started so far: tests use it to count launches.
struct Counters {
  long launches = 0;
  long blocks = 0;
};
extern Counters counters;

/// `cluster` blocks, next to each other along x, run together.
void run(dim3 grid, dim3 block, size_t shared, unsigned cluster, const std::function<void()>& body);
void* dynamic_shared();
void sync_block();
int cluster_rank();
/// dynamic_shared() of another block of the cluster.
void* shared_of(int rank);
void arrive_at_cluster();
void wait_for_cluster();
void sync_warp(unsigned mask);
int lane();

/// Every lane leaves `bytes` (at most 16) and takes those of lane `source`.
void exchange(unsigned mask, const void* mine, void* theirs, size_t bytes, int source);
/// Bit i is lane i's predicate.
unsigned ballot(unsigned mask, bool predicate);

// Tensor cores and the copies that feed them, by the layouts of the PTX ISA's chapters on mma and
// ldmatrix. A register is 32 bits, whatever it holds; `lane` below is the warp's.

/// mma.m16n8k16, bfloat16: D += A B, A [16, 16], B [16, 8], D [16, 8] of float.
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
/// mma.m16n8k8, TF32: A [16, 8], B [8, 8]. Operands must have been rounded: the bits that TF32 does
/// not have are zeros.
void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
/// ldmatrix.x4: four 8x8 matrices of 16-bit elements. Row i of matrix j is at the address that lane
/// 8 j + i gives, on a boundary of 16 bytes; register j is this lane's part of matrix j: elements
/// 2 (lane % 4) and the next of row lane / 4, or of that column if `transposed`.
void load_matrices(uint32_t (&registers)[4], const void* row, bool transposed);
/// cp.async of 16 bytes to shared memory, zeros if not `there`. They arrive when this thread waits,
/// not before, and what lay there is lost at once: either is what a device may do.
void copy_async(void* shared, const void* global, bool there);
void wait_for_copies();

template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 16, "a shuffled value is at most 16 bytes");
  T result;
  exchange(mask, &value, &result, sizeof(T), source);
  return result;
}

}  // namespace simt

cudaError_t cudaGetDevice(int* index);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

inline void __syncthreads() { simt::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { simt::sync_warp(mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return simt::shuffle(mask, value, (simt::lane() & -width) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int source = simt::lane() ^ bits;
  const bool inside = (source & -width) <= (simt::lane() & -width);
  return simt::shuffle(mask, value, inside ? source : simt::lane());
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int source = simt::lane() + static_cast<int>(delta);
  const bool inside = (source & -width) == (simt::lane() & -width);
  return simt::shuffle(mask, value, inside ? source : simt::lane());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return simt::ballot(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == 0xffffffffu;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
void __stwb(T* address, T value) {
  *address = value;
}
