// The one way to start a kernel. nvcc sees a launch on a stream; any other compiler gets the thread
// rig in csrc/simt, whose <cuda_runtime.h> stands in for CUDA's.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace snsoftmax {

/// Dynamic shared memory above this many bytes has to be asked for.
constexpr size_t kDefaultSharedBytes = 48 << 10;

/// Null, or CUDA's message for an error.
inline const char* message(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

/// Starts `kernel` on `stream` (a cudaStream_t) with `shared` bytes of dynamic shared memory, in
/// clusters of `cluster` blocks along x; returns null, or a message where the launch failed. Never
/// synchronises, so it can be captured.
template <class... Parameters, class... Arguments>
const char* launch_in_clusters(int cluster, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                               size_t shared, void* stream, const Arguments&... arguments) {
  if (shared > kDefaultSharedBytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return message(error);
  }
#if defined(__CUDACC__)
  if (cluster > 1) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = 1;
    return message(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
  }
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
#else
  static_cast<void>(stream);
  simt::run(grid, block, shared, static_cast<unsigned>(cluster), [&] { kernel(arguments...); });
#endif
  return message(cudaGetLastError());
}

/// The same without clusters.
template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                   void* stream, const Arguments&... arguments) {
  return launch_in_clusters(1, kernel, grid, block, shared, stream, arguments...);
}

/// The block's dynamic shared memory, aligned to 16 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
#else
  return static_cast<T*>(simt::dynamic_shared());
#endif
}

/// The cluster that a block is in, from compute capability 9.0 on. Blocks of one cluster run at the
/// same time and read each other's dynamic shared memory.
struct Cluster {
  __device__ __forceinline__ int rank() const {
#if !defined(__CUDACC__)
    return simt::cluster_rank();
#elif __CUDA_ARCH__ >= 900
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
#else
    __trap();
#endif
  }

  /// Says that this thread is done with what it wrote for the other blocks, or read of theirs.
  __device__ __forceinline__ void arrive() const {
#if !defined(__CUDACC__)
    simt::arrive_at_cluster();
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
  }

  /// Waits until all threads of the cluster have arrived.
  __device__ __forceinline__ void wait() const {
#if !defined(__CUDACC__)
    simt::wait_for_cluster();
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  }

  /// What lies at `mine`, in this block's dynamic shared memory, in that of block `rank`.
  template <class T>
  __device__ __forceinline__ const T* in_block(int rank, const T* mine) const {
#if !defined(__CUDACC__)
    const auto offset = reinterpret_cast<const unsigned char*>(mine) -
                        static_cast<const unsigned char*>(simt::dynamic_shared());
    return reinterpret_cast<const T*>(static_cast<const unsigned char*>(simt::shared_of(rank)) +
                                      offset);
#elif __CUDA_ARCH__ >= 900
    const T* theirs;
    asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
    return theirs;
#else
    return mine;
#endif
  }
};

}  // namespace snsoftmax
