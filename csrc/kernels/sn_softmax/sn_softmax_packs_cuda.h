// How a row lies in memory, taken a pack (16 bytes) at a time, and how the threads that share one
// reduce.
#pragma once

#include <cstdint>

#include "sn_softmax/sn_softmax_formula_cuda.h"
#include "sn_softmax/sn_softmax_plan.h"

namespace snsoftmax {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

// ---- rows ----

template <class T>
constexpr int kElements = kPackBytes / static_cast<int>(sizeof(T));

/// Two neighbours at once: the half types convert in pairs.
__device__ __forceinline__ void store_pair(float* p, float x, float y) { p[0] = x, p[1] = y; }
__device__ __forceinline__ void store_pair(double* p, double x, double y) { p[0] = x, p[1] = y; }
__device__ __forceinline__ void store_pair(__half* p, float x, float y) {
  *reinterpret_cast<__half2*>(p) = __floats2half2_rn(x, y);
}
__device__ __forceinline__ void store_pair(__nv_bfloat16* p, float x, float y) {
  *reinterpret_cast<__nv_bfloat162*>(p) = __floats2bfloat162_rn(x, y);
}

template <class T>
struct alignas(kPackBytes) Pack {
  T values[kElements<T>];
};

/// A pack in opmath.
template <class T>
struct Wide {
  Opmath<T> values[kElements<T>] = {};
};

template <class T>
__device__ __forceinline__ Wide<T> widen(const Pack<T>& pack) {
  Wide<T> wide;
#pragma unroll
  for (int k = 0; k < kElements<T>; ++k) wide.values[k] = to_opmath(pack.values[k]);
  return wide;
}
#if defined(__CUDACC__)
/// One instruction an element; taken one by one, half of them are first moved to a low half.
__device__ __forceinline__ Wide<__nv_bfloat16> widen(const Pack<__nv_bfloat16>& pack) {
  const auto* const words = reinterpret_cast<const unsigned*>(&pack);
  Wide<__nv_bfloat16> wide;
#pragma unroll
  for (int k = 0; k < kElements<__nv_bfloat16>; k += 2) {
    wide.values[k] = __uint_as_float(words[k / 2] << 16);
    wide.values[k + 1] = __uint_as_float(words[k / 2] & 0xffff0000u);
  }
  return wide;
}
#endif

/// The same pack, but the compiler cannot know that it is.
template <class T>
__device__ __forceinline__ Pack<T> opaque(Pack<T> pack) {
#if defined(__CUDACC__)
  auto* const words = reinterpret_cast<uint4*>(&pack);
  asm volatile("" : "+r"(words->x), "+r"(words->y), "+r"(words->z), "+r"(words->w));
#endif
  return pack;
}

template <class T>
__device__ __forceinline__ Pack<T> filled(Opmath<T> value) {
  Pack<T> pack;
#pragma unroll
  for (int k = 0; k < kElements<T>; k += 2) store_pair(pack.values + k, value, value);
  return pack;
}

/// Elements next to each other. Pack p holds elements [p n - shift, (p + 1) n - shift) of the row,
/// so that packs are aligned wherever the row starts; the first and the last may be partial.
template <class T>
class ContiguousRow {
 public:
  /// Row `row`, or a row of nothing where there is none.
  __device__ __forceinline__ ContiguousRow(const Task<T>& task, int64_t row)
      : offset_(row * task.size),
        size_(row < task.rows ? task.size : 0),
        shift_(static_cast<int>(offset_ % kElements<T>)),
        aligned_(task.aligned) {}

  __device__ __forceinline__ int packs() const {
    return (shift_ + size_ + kElements<T> - 1) / kElements<T>;
  }

  /// Elements outside the row are `pad`.
  __device__ __forceinline__ Pack<T> load(const T* data, int p, Opmath<T> pad) const {
    const int first = p * kElements<T> - shift_;
    Pack<T> pack;
    if (whole(first)) {
      *reinterpret_cast<uint4*>(&pack) =
          __ldg(reinterpret_cast<const uint4*>(data + offset_ + first));
      return pack;
    }
    pack = filled<T>(pad);
#pragma unroll
    for (int k = 0; k < kElements<T>; ++k)
      if (inside(first + k)) pack.values[k] = data[offset_ + first + k];
    return opaque(pack);  // four registers from here on, not one for each element
  }

  __device__ __forceinline__ void store(T* data, int p, const Pack<T>& pack) const {
    const int first = p * kElements<T> - shift_;
    if (whole(first)) {
      // An assignment would be taken apart into stores of elements.
      __stwb(reinterpret_cast<uint4*>(data + offset_ + first),
             *reinterpret_cast<const uint4*>(&pack));
      return;
    }
#pragma unroll
    for (int k = 0; k < kElements<T>; ++k)
      if (inside(first + k)) data[offset_ + first + k] = pack.values[k];
  }

 private:
  __device__ __forceinline__ bool inside(int i) const { return i >= 0 && i < size_; }
  __device__ __forceinline__ bool whole(int first) const {
    return aligned_ && first >= 0 && first + kElements<T> <= size_;
  }

  int64_t offset_;
  int size_;
  int shift_;
  bool aligned_;
};

/// Elements `inner` apart.
template <class T>
class StridedRow {
 public:
  __device__ __forceinline__ StridedRow(const Task<T>& task, int64_t row)
      : offset_(row / task.inner * task.size * task.inner + row % task.inner),
        stride_(task.inner),
        size_(row < task.rows ? task.size : 0) {}

  __device__ __forceinline__ int packs() const { return (size_ + kElements<T> - 1) / kElements<T>; }

  __device__ __forceinline__ Pack<T> load(const T* data, int p, Opmath<T> pad) const {
    Pack<T> pack = filled<T>(pad);
#pragma unroll
    for (int k = 0; k < kElements<T>; ++k) {
      const int i = p * kElements<T> + k;
      if (i < size_) pack.values[k] = data[offset_ + i * stride_];
    }
    return pack;
  }

  __device__ __forceinline__ void store(T* data, int p, const Pack<T>& pack) const {
#pragma unroll
    for (int k = 0; k < kElements<T>; ++k) {
      const int i = p * kElements<T> + k;
      if (i < size_) data[offset_ + i * stride_] = pack.values[k];
    }
  }

 private:
  int64_t offset_;
  int64_t stride_;
  int size_;
};

// ---- groups: max() and sum() give every thread of the group the same result ----

/// 2^k neighbouring lanes of a warp.
struct LaneGroup {
  int lanes;

  __device__ __forceinline__ int index() const {
    return static_cast<int>(threadIdx.x) & (lanes - 1);
  }
  __device__ __forceinline__ int size() const { return lanes; }

  template <class S>
  __device__ __forceinline__ S max(S x) const {
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2)
      if (bit < lanes) x = larger(x, __shfl_xor_sync(kAllLanes, x, bit));
    return x;
  }

  template <class S, int n>
  __device__ __forceinline__ void sum(S (&x)[n]) const {
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2)
      if (bit < lanes) {
#pragma unroll
        for (int i = 0; i < n; ++i) x[i] += __shfl_xor_sync(kAllLanes, x[i], bit);
      }
  }
};

template <class S>
struct BlockBuffer {
  S max[32];
  S sums[kMaxSums][32];
};

/// A block; max() and sum() at most once each.
template <class S>
struct BlockGroup {
  BlockBuffer<S>& buffer;

  __device__ __forceinline__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int size() const { return static_cast<int>(blockDim.x); }

  __device__ __forceinline__ S max(S x) const {
    x = LaneGroup{32}.max(x);
    if (lane() == 0) buffer.max[warp()] = x;
    __syncthreads();
    return LaneGroup{32}.max(lane() < warps() ? buffer.max[lane()] : Limits<S>::lowest);
  }

  template <int n>
  __device__ __forceinline__ void sum(S (&x)[n]) const {
    LaneGroup{32}.sum(x);
#pragma unroll
    for (int i = 0; i < n; ++i)
      if (lane() == 0) buffer.sums[i][warp()] = x[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < n; ++i) x[i] = lane() < warps() ? buffer.sums[i][lane()] : S(0);
    LaneGroup{32}.sum(x);
  }

 private:
  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x % 32); }
  __device__ __forceinline__ int warp() const { return static_cast<int>(threadIdx.x / 32); }
  __device__ __forceinline__ int warps() const { return static_cast<int>(blockDim.x / 32); }
};

/// The threads of a block with the same threadIdx.x; max() and sum() at most once each.
template <class S>
struct ColumnGroup {
  S* buffer;  // [1 + kMaxSums][blockDim.y][blockDim.x]

  __device__ __forceinline__ int index() const { return static_cast<int>(threadIdx.y); }
  __device__ __forceinline__ int size() const { return static_cast<int>(blockDim.y); }

  __device__ __forceinline__ S max(S x) const {
    if (size() == 1) return x;
    cell(0, index()) = x;
    __syncthreads();
    for (int y = 0; y < size(); ++y) x = larger(x, cell(0, y));
    return x;
  }

  template <int n>
  __device__ __forceinline__ void sum(S (&x)[n]) const {
    if (size() == 1) return;
#pragma unroll
    for (int i = 0; i < n; ++i) cell(1 + i, index()) = x[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < n; ++i) {
      x[i] = S(0);
      for (int y = 0; y < size(); ++y) x[i] += cell(1 + i, y);
    }
  }

 private:
  __device__ __forceinline__ S& cell(int field, int y) const {
    return buffer[(field * blockDim.y + y) * blockDim.x + threadIdx.x];
  }
};

}  // namespace
}  // namespace snsoftmax
