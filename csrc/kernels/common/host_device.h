// What runs on the CPU and on CUDA alike.
#pragma once

#if defined(__CUDACC__)
#define SN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SN_HOST_DEVICE inline __attribute__((always_inline))
#endif
