// Channels that a CUDA thread loads and stores together.
#pragma once

#include <cstdint>

#include "common/cuda_types.h"

namespace snsoftmax {
namespace {

/// V adjacent channels in opmath.
template <class T, int V>
struct Pack {
  using S = Opmath<T>;
  S lane[V];

  struct alignas(V * sizeof(T)) Memory {
    T element[V];
  };

  /// Apart from the conversion, so that several loads can be issued before the first one is used.
  static __device__ __forceinline__ Memory read(const T* from) {
    return *reinterpret_cast<const Memory*>(from);
  }
  static __device__ __forceinline__ Pack of(const Memory& memory) {
    Pack pack;
#pragma unroll
    for (int v = 0; v < V; ++v) pack.lane[v] = to_opmath(memory.element[v]);
    return pack;
  }
  static __device__ __forceinline__ Pack load(const T* from) { return of(read(from)); }
  __device__ __forceinline__ Memory memory() const {
    Memory memory;
#pragma unroll
    for (int v = 0; v < V; ++v) store_one(&memory.element[v], lane[v]);
    return memory;
  }
  __device__ __forceinline__ void store(T* to) const {
    const Memory whole = memory();
    *reinterpret_cast<Memory*>(to) = whole;
  }
  /// The same of 16 bytes, where an assignment would be taken apart into stores of elements.
  __device__ __forceinline__ void store_whole(T* to) const {
    static_assert(sizeof(Memory) == sizeof(uint4));
    const Memory whole = memory();
    __stwb(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(&whole));
  }
};

}  // namespace
}  // namespace snsoftmax
