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

/// Starts `kernel` on `stream` (a cudaStream_t) with `shared` bytes of dynamic shared memory;
/// returns null, or a message where the launch failed. Never synchronises, so it can be captured.
template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                   void* stream, const Arguments&... arguments) {
  if (shared > kDefaultSharedBytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return message(error);
  }
#if defined(__CUDACC__)
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
#else
  static_cast<void>(stream);
  simt::run(grid, block, shared, [&] { kernel(arguments...); });
#endif
  return message(cudaGetLastError());
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

}  // namespace snsoftmax
