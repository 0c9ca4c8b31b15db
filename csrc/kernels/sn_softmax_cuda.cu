// CUDA kernels of sn-softmax: who holds what, and how it gets there. The arithmetic is in
// sn_softmax_math.h, the choice among the kernels in sn_softmax_plan.h.
//
// A kernel is put together from
//   a Formula  what is summed over a row and what is written (forward, backward),
//   a Row      how a row's elements lie in memory, taken one pack (16 bytes of them) at a time,
//   a Group    the threads that share a row and how they reduce (lanes, a block, a column).
// Reductions have a fixed order and there are no atomics: the same input gives the same bits.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "launch.h"
#include "sn_softmax.h"
#include "sn_softmax_math.h"
#include "sn_softmax_plan.h"

namespace snsoftmax {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

/// For __launch_bounds__: left to itself, ptxas would rather spill a double than lose occupancy.
template <class F>
constexpr int kResident = sizeof(typename F::S) == 8 ? 1 : 2;
/// Half types hold so many elements backward that 64 registers are a few too few.
template <class F>
constexpr int kRegisterResident = F::kBackward && sizeof(typename F::T) == 2 ? 1 : kResident<F>;

// ---- element types ----

template <class T>
struct OpmathOf {
  using type = float;
};
template <>
struct OpmathOf<double> {
  using type = double;
};
template <class T>
using Opmath = typename OpmathOf<T>::type;

template <class T>
constexpr int kElements = kPackBytes / static_cast<int>(sizeof(T));

__device__ __forceinline__ float to_opmath(float x) { return x; }
__device__ __forceinline__ double to_opmath(double x) { return x; }
__device__ __forceinline__ float to_opmath(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_opmath(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Two neighbours at once: the half types convert in pairs.
__device__ __forceinline__ void store_pair(float* p, float x, float y) { p[0] = x, p[1] = y; }
__device__ __forceinline__ void store_pair(double* p, double x, double y) { p[0] = x, p[1] = y; }
__device__ __forceinline__ void store_pair(__half* p, float x, float y) {
  *reinterpret_cast<__half2*>(p) = __floats2half2_rn(x, y);
}
__device__ __forceinline__ void store_pair(__nv_bfloat16* p, float x, float y) {
  *reinterpret_cast<__nv_bfloat162*>(p) = __floats2bfloat162_rn(x, y);
}

__device__ __forceinline__ void store_one(float* p, float x) { *p = x; }
__device__ __forceinline__ void store_one(double* p, double x) { *p = x; }
__device__ __forceinline__ void store_one(__half* p, float x) { *p = __float2half_rn(x); }
__device__ __forceinline__ void store_one(__nv_bfloat16* p, float x) {
  *p = __float2bfloat16_rn(x);
}

/// 2^x; a float result below 2^-126 is zero.
__device__ __forceinline__ float exp2_of(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
__device__ __forceinline__ double exp2_of(double x) { return exp2(x); }
__device__ __forceinline__ float log2_of(float x) { return log2f(x); }
__device__ __forceinline__ double log2_of(double x) { return log2(x); }

/// x, but the compiler cannot know that it is.
template <class S>
__device__ __forceinline__ S opaque(S x) {
#if defined(__CUDACC__)
  asm volatile("" : "+f"(x));
#endif
  return x;
}

// ---- what a kernel is given ----

template <class S>
struct TemperatureView {
  S value;
  const S* data;
  int64_t stride;

  __device__ __forceinline__ S operator()(int64_t row) const {
    return data == nullptr ? value : __ldg(data + row * stride);
  }
};

template <class T>
struct Task {
  const T* logits;
  const T* grad;                  // null: zeros
  const Opmath<T>* grad_entropy;  // null: zeros
  T* out;                         // probabilities, or the gradient of the logits
  Opmath<T>* entropy;             // null: not wanted
  int64_t rows;
  int64_t inner;
  int size;
  bool aligned;   // every tensor starts on a pack
  bool absolute;  // st is smooth_temperature, not scale * t
  TemperatureView<Opmath<T>> temperature;
  TemperatureView<Opmath<T>> smooth_temperature;
  Opmath<T> inverse_scale;
};

// ---- formulas ----

template <class T_>
class Forward {
 public:
  using T = T_;
  using S = Opmath<T>;
  static constexpr bool kBackward = false;
  static constexpr int kSums = 2;

  __device__ __forceinline__ Forward(const Task<T>& task, int64_t row)
      : inverse_(inverse_temperature(task.temperature(row))), sums_(Sums<S>::zero()) {}

  __device__ __forceinline__ void add(S max, S a, S) {
    const S z = octaves(a, max, inverse_);
    sums_.add(z, exp2_of(z), S(0));
  }

  __device__ __forceinline__ void rescale(S from, S to) {
    const S z = octaves(from, to, inverse_);
    sums_.rescale(z, exp2_of(z));
  }

  __device__ __forceinline__ void get(S (&sums)[kSums]) const {
    sums[0] = sums_.power;
    sums[1] = sums_.moment;
  }
  __device__ __forceinline__ void set(const S (&sums)[kSums]) {
    sums_.power = sums[0];
    sums_.moment = sums[1];
  }

  __device__ __forceinline__ void finish() { inverse_power_ = S(1) / sums_.power; }

  __device__ __forceinline__ S output(S max, S a, S) const {
    return exp2_of(octaves(a, max, inverse_)) * inverse_power_;
  }

  /// By one thread of the group.
  __device__ __forceinline__ void write_row(const Task<T>& task, int64_t row) const {
    if (task.entropy != nullptr)
      task.entropy[row] = entropy(log2_of(sums_.power), inverse_power_, sums_.moment);
  }

 private:
  S inverse_;
  S inverse_power_;
  Sums<S> sums_;
};

template <class T_, bool kSmooth>
class Backward {
 public:
  using T = T_;
  using S = Opmath<T>;
  static constexpr bool kBackward = true;
  static constexpr int kSums = kSmooth ? 5 : 3;

  __device__ __forceinline__ Backward(const Task<T>& task, int64_t row)
      : sums_t_(Sums<S>::zero()), sums_st_(Sums<S>::zero()) {
    inverse_t_ = inverse_temperature(task.temperature(row));
    inverse_st_ = S(0);
    if constexpr (kSmooth)
      inverse_st_ = task.absolute ? inverse_temperature(task.smooth_temperature(row))
                                  : inverse_t_ * task.inverse_scale;
    tilt_ =
        task.grad_entropy == nullptr ? S(0) : __ldg(task.grad_entropy + row) * Constants<S>::ln2;
  }

  __device__ __forceinline__ void add(S max, S a, S g) {
    const S z = octaves(a, max, inverse_t_);
    sums_t_.add(z, exp2_of(z), g);
    if constexpr (kSmooth) {
      const S smooth_z = octaves(a, max, inverse_st_);
      sums_st_.add(smooth_z, exp2_of(smooth_z), g);
    }
  }

  __device__ __forceinline__ void rescale(S from, S to) {
    const S z = octaves(from, to, inverse_t_);
    sums_t_.rescale(z, exp2_of(z));
    if constexpr (kSmooth) {
      const S smooth_z = octaves(from, to, inverse_st_);
      sums_st_.rescale(smooth_z, exp2_of(smooth_z));
    }
  }

  __device__ __forceinline__ void get(S (&sums)[kSums]) const {
    sums[0] = sums_t_.power;
    sums[1] = sums_t_.moment;
    sums[2] = sums_t_.dot;
    if constexpr (kSmooth) {
      sums[3] = sums_st_.power;
      sums[4] = sums_st_.dot;
    }
  }
  __device__ __forceinline__ void set(const S (&sums)[kSums]) {
    sums_t_ = {sums[0], sums[1], sums[2]};
    if constexpr (kSmooth) sums_st_ = {sums[3], S(0), sums[4]};
  }

  __device__ __forceinline__ void finish() {
    at_t_ = Jacobian<S>::of(sums_t_, S(1) / sums_t_.power, tilt_, inverse_t_);
    if constexpr (kSmooth)
      at_st_ = Jacobian<S>::of(sums_st_, S(1) / sums_st_.power, S(0), inverse_st_);
  }

  __device__ __forceinline__ S output(S max, S a, S g) const {
    const S z = octaves(a, max, inverse_t_);
    if constexpr (kSmooth)
      return combine(z, exp2_of(z), exp2_of(octaves(a, max, inverse_st_)), g, tilt_, at_t_, at_st_);
    else
      return combine(z, exp2_of(z), g, tilt_, at_t_);
  }

  __device__ __forceinline__ void write_row(const Task<T>&, int64_t) const {}

 private:
  S inverse_t_, inverse_st_, tilt_;
  Sums<S> sums_t_, sums_st_;
  Jacobian<S> at_t_, at_st_;
};

// ---- rows ----

template <class T>
struct alignas(kPackBytes) Pack {
  T values[kElements<T>];
};

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
    return pack;
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

// ---- the steps of every kernel ----

/// A pack of logits and, backward, of incoming gradients.
template <class F, bool = F::kBackward>
struct Inputs {
  Pack<typename F::T> a;
};
template <class F>
struct Inputs<F, true> {
  Pack<typename F::T> a;
  Pack<typename F::T> g;
};

template <class F, class Row>
__device__ __forceinline__ Inputs<F> load(const Task<typename F::T>& task, const Row& row, int p) {
  using S = typename F::S;
  Inputs<F> in;
  in.a = row.load(task.logits, p, S(-INFINITY));
  if constexpr (F::kBackward)
    in.g = task.grad == nullptr ? filled<typename F::T>(S(0)) : row.load(task.grad, p, S(0));
  return in;
}

template <class F>
__device__ __forceinline__ typename F::S gradient(const Inputs<F>& in, int k) {
  if constexpr (F::kBackward)
    return to_opmath(in.g.values[k]);
  else
    return 0;
}

template <class F>
__device__ __forceinline__ typename F::S largest(const Inputs<F>& in, typename F::S max) {
#pragma unroll
  for (int k = 0; k < kElements<typename F::T>; ++k) max = larger(max, to_opmath(in.a.values[k]));
  return max;
}

template <class F>
__device__ __forceinline__ void add(F& formula, const Inputs<F>& in, typename F::S max) {
#pragma unroll
  for (int k = 0; k < kElements<typename F::T>; ++k)
    formula.add(max, to_opmath(in.a.values[k]), gradient(in, k));
}

template <class F>
__device__ __forceinline__ Pack<typename F::T> outputs(const F& formula, const Inputs<F>& in,
                                                       typename F::S max) {
  Pack<typename F::T> out;
#pragma unroll
  for (int k = 0; k < kElements<typename F::T>; k += 2)
    store_pair(out.values + k, formula.output(max, to_opmath(in.a.values[k]), gradient(in, k)),
               formula.output(max, to_opmath(in.a.values[k + 1]), gradient(in, k + 1)));
  return out;
}

template <class F, class Group>
__device__ __forceinline__ void reduce(F& formula, const Group& group) {
  typename F::S sums[F::kSums];
  formula.get(sums);
  group.sum(sums);
  formula.set(sums);
  formula.finish();
}

// ---- rows that are held while they are worked on ----

/// In registers: kPacks for every thread of the group.
template <class F, int kPacks>
struct RegisterSlots {
  Inputs<F> held[kPacks];

  template <class Group, class Visit>
  __device__ __forceinline__ void each(const Group& group, int, const Visit& visit) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) visit(group.index() + i * group.size(), held[i]);
  }
};

/// In shared memory, where a thread sees only what it put there itself.
template <class F>
struct SharedSlots {
  Inputs<F>* held;

  template <class Group, class Visit>
  __device__ __forceinline__ void each(const Group& group, int packs, const Visit& visit) {
    for (int p = group.index(); p < packs; p += group.size()) visit(p, held[p]);
  }
};

template <class F, class Group, class Slots>
__device__ __forceinline__ void solve_held(const Task<typename F::T>& task, int64_t row_index,
                                           const Group& group, Slots& slots) {
  using S = typename F::S;
  using In = Inputs<F>;
  const ContiguousRow<typename F::T> row(task, row_index);
  F formula(task, row_index < task.rows ? row_index : 0);

  slots.each(group, row.packs(), [&](int p, In& in) { in = load<F>(task, row, p); });
  S max = Limits<S>::lowest;
  slots.each(group, row.packs(), [&](int, In& in) { max = largest(in, max); });
  max = group.max(max);
  slots.each(group, row.packs(), [&](int, In& in) { add(formula, in, max); });
  reduce(formula, group);
  // Half types have so many elements to a pack that their powers cost less to compute again than
  // the registers to keep them.
  if constexpr (sizeof(typename F::T) == 2) max = opaque(max);
  slots.each(group, row.packs(),
             [&](int p, In& in) { row.store(task.out, p, outputs(formula, in, max)); });
  if (group.index() == 0 && row_index < task.rows) formula.write_row(task, row_index);
}

template <class F, int kPacks>
__global__ void __launch_bounds__(kWarpThreads, kResident<F>)
    warp_kernel(Task<typename F::T> task, int lanes) {
  const LaneGroup group{kPacks > 1 ? 32 : lanes};
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / group.lanes) + threadIdx.x / group.lanes;
  RegisterSlots<F, kPacks> slots;
  solve_held<F>(task, row, group, slots);
}

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kRegisterResident<F>)
    block_kernel(Task<typename F::T> task) {
  __shared__ BlockBuffer<typename F::S> buffer;
  RegisterSlots<F, kBlockPacks> slots;
  solve_held<F>(task, blockIdx.x, BlockGroup<typename F::S>{buffer}, slots);
}

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kResident<F>)
    shared_kernel(Task<typename F::T> task) {
  __shared__ BlockBuffer<typename F::S> buffer;
  SharedSlots<F> slots{dynamic_shared<Inputs<F>>()};
  solve_held<F>(task, blockIdx.x, BlockGroup<typename F::S>{buffer}, slots);
}

// ---- rows that are read twice ----

constexpr int kRound = 2;  // packs that a thread loads at once, to have them all under way

/// Packs first, first + group.size(), ... of a row; those from `end` on are padding.
template <class F, class Row, class Group>
__device__ __forceinline__ void load_round(const Task<typename F::T>& task, const Row& row,
                                           const Group& group, int first, int end,
                                           Inputs<F> (&in)[kRound]) {
#pragma unroll
  for (int i = 0; i < kRound; ++i) {
    const int p = first + i * group.size();
    in[i] = load<F>(task, row, p < end ? p : row.packs());
  }
}

/// Sums over the packs [begin, end) of a row, online: whenever a round raises the maximum, the sums
/// so far are rescaled to it. Returns the maximum.
template <class F, class Row, class Group>
__device__ __forceinline__ typename F::S stream_in(const Task<typename F::T>& task, const Row& row,
                                                   const Group& group, int begin, int end,
                                                   F& formula) {
  typename F::S max = Limits<typename F::S>::lowest;
  for (int first = begin + group.index(); first < end; first += kRound * group.size()) {
    Inputs<F> in[kRound];
    load_round(task, row, group, first, end, in);
    const typename F::S before = max;
#pragma unroll
    for (int i = 0; i < kRound; ++i) max = largest(in[i], max);
    formula.rescale(before, max);
#pragma unroll
    for (int i = 0; i < kRound; ++i) add(formula, in[i], max);
  }
  return max;
}

/// Writes the packs [begin, end), last round first: what was read last is still in the caches.
template <class F, class Row, class Group>
__device__ __forceinline__ void stream_out(const Task<typename F::T>& task, const Row& row,
                                           const Group& group, int begin, int end, const F& formula,
                                           typename F::S max) {
  const int round = kRound * group.size();
  for (int rounds = (end - begin + round - 1) / round; rounds > 0; --rounds) {
    const int first = begin + (rounds - 1) * round + group.index();
    Inputs<F> in[kRound];
    load_round(task, row, group, first, end, in);
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      const int p = first + i * group.size();
      if (p < end) row.store(task.out, p, outputs(formula, in[i], max));
    }
  }
}

template <class F, class Row, class Group>
__device__ __forceinline__ void solve_streamed(const Task<typename F::T>& task, int64_t row_index,
                                               const Group& group) {
  const Row row(task, row_index);
  F formula(task, row_index < task.rows ? row_index : 0);
  const typename F::S own = stream_in(task, row, group, 0, row.packs(), formula);
  const typename F::S max = group.max(own);
  formula.rescale(own, max);
  reduce(formula, group);
  stream_out(task, row, group, 0, row.packs(), formula, max);
  if (group.index() == 0 && row_index < task.rows) formula.write_row(task, row_index);
}

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kResident<F>)
    stream_kernel(Task<typename F::T> task) {
  __shared__ BlockBuffer<typename F::S> buffer;
  solve_streamed<F, ContiguousRow<typename F::T>>(task, blockIdx.x,
                                                  BlockGroup<typename F::S>{buffer});
}

template <class F>
__global__ void __launch_bounds__(kStridedThreads, kResident<F>)
    strided_kernel(Task<typename F::T> task) {
  const ColumnGroup<typename F::S> group{dynamic_shared<typename F::S>()};
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  solve_streamed<F, StridedRow<typename F::T>>(task, row, group);
}

// ---- rows that are split over blocks ----

/// A block's part of a row, relative to the part's own maximum.
template <class F>
struct Partial {
  typename F::S max;
  typename F::S sums[F::kSums];
};

/// The packs of this block's row that are this block's: [begin, end).
struct Span {
  int begin;
  int end;

  __device__ __forceinline__ Span(int packs, int split, int splits) {
    const int length = (packs + splits - 1) / splits;
    begin = split * length < packs ? split * length : packs;
    end = begin + length < packs ? begin + length : packs;
  }
};

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kResident<F>)
    split_in_kernel(Task<typename F::T> task, Partial<F>* partials, int splits) {
  __shared__ BlockBuffer<typename F::S> buffer;
  const BlockGroup<typename F::S> group{buffer};
  const int64_t row_index = blockIdx.x / splits;
  const ContiguousRow<typename F::T> row(task, row_index);
  const Span span(row.packs(), blockIdx.x % splits, splits);
  F formula(task, row_index);
  const typename F::S own = stream_in(task, row, group, span.begin, span.end, formula);
  Partial<F> partial;
  partial.max = group.max(own);
  formula.rescale(own, partial.max);
  formula.get(partial.sums);
  group.sum(partial.sums);
  if (group.index() == 0) partials[blockIdx.x] = partial;
}

/// Merges the parts of a row, in every warp alike. Returns the row's maximum.
template <class F>
__device__ __forceinline__ typename F::S merge(const Partial<F>* partials, int splits, F& formula) {
  using S = typename F::S;
  const LaneGroup warp{32};
  S max = Limits<S>::lowest;
  for (int i = warp.index(); i < splits; i += warp.size()) max = larger(max, partials[i].max);
  max = warp.max(max);
  S total[F::kSums] = {};
  for (int i = warp.index(); i < splits; i += warp.size()) {
    S sums[F::kSums];
    formula.set(partials[i].sums);
    formula.rescale(partials[i].max, max);
    formula.get(sums);
#pragma unroll
    for (int k = 0; k < F::kSums; ++k) total[k] += sums[k];
  }
  formula.set(total);
  reduce(formula, warp);
  return max;
}

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kResident<F>)
    split_out_kernel(Task<typename F::T> task, const Partial<F>* partials, int splits) {
  __shared__ BlockBuffer<typename F::S> buffer;
  const BlockGroup<typename F::S> group{buffer};
  const int64_t row_index = blockIdx.x / splits;
  const int split = blockIdx.x % splits;
  const ContiguousRow<typename F::T> row(task, row_index);
  const Span span(row.packs(), split, splits);
  F formula(task, row_index);
  const typename F::S max = merge(partials + row_index * splits, splits, formula);
  stream_out(task, row, group, span.begin, span.end, formula, max);
  if (split == 0 && group.index() == 0) formula.write_row(task, row_index);
}

// ---- short rows, a thread each ----

/// Copies `n` elements between global and shared memory with the whole block.
template <class T>
__device__ __forceinline__ void copy(T* to, const T* from, int n, bool aligned) {
  const int packs = aligned ? n / kElements<T> : 0;
  for (int p = threadIdx.x; p < packs; p += blockDim.x)
    reinterpret_cast<uint4*>(to)[p] = reinterpret_cast<const uint4*>(from)[p];
  for (int i = packs * kElements<T> + threadIdx.x; i < n; i += blockDim.x) to[i] = from[i];
}

/// A tile of blockDim.x rows passes through shared memory, so that global memory sees whole packs
/// whatever the size of a row.
template <class F>
__global__ void __launch_bounds__(kTileRows, kResident<F>) tile_kernel(Task<typename F::T> task) {
  using T = typename F::T;
  using S = typename F::S;
  const int size = task.size;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x;
  const int64_t left = task.rows - first;
  const int rows = left < blockDim.x ? static_cast<int>(left) : static_cast<int>(blockDim.x);
  T* const a_tile = dynamic_shared<T>();
  T* const g_tile = a_tile + blockDim.x * size;
  const bool has_grad = F::kBackward && task.grad != nullptr;
  copy(a_tile, task.logits + first * size, rows * size, task.aligned);
  if (has_grad) copy(g_tile, task.grad + first * size, rows * size, task.aligned);
  __syncthreads();

  if (static_cast<int>(threadIdx.x) < rows) {
    T* const a = a_tile + threadIdx.x * size;
    const T* const g = g_tile + threadIdx.x * size;
    F formula(task, first + threadIdx.x);
    S max = Limits<S>::lowest;
    for (int i = 0; i < size; ++i) max = larger(max, to_opmath(a[i]));
    for (int i = 0; i < size; ++i)
      formula.add(max, to_opmath(a[i]), has_grad ? to_opmath(g[i]) : S(0));
    formula.finish();
    for (int i = 0; i < size; ++i)
      store_one(a + i, formula.output(max, to_opmath(a[i]), has_grad ? to_opmath(g[i]) : S(0)));
    formula.write_row(task, first + threadIdx.x);
  }
  __syncthreads();
  copy(task.out + first * size, a_tile, rows * size, task.aligned);
}

// ---- host ----

bool on_pack(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kPackBytes == 0; }

template <class S>
TemperatureView<S> view(const Temperature& temperature) {
  return {static_cast<S>(temperature.value), static_cast<const S*>(temperature.data),
          temperature.stride};
}

template <class F>
const char* run(const Plan& plan, const Task<typename F::T>& task, void* workspace, void* stream) {
  const dim3 grid(static_cast<unsigned>(plan.blocks));
  const dim3 block(plan.threads_x, plan.threads_y);
  switch (plan.regime) {
    case Regime::kTile:
      return launch(tile_kernel<F>, grid, block, plan.shared, stream, task);
    case Regime::kWarp:
      return launch(plan.packs == 1 ? warp_kernel<F, 1> : warp_kernel<F, 2>, grid, block,
                    plan.shared, stream, task, plan.lanes);
    case Regime::kBlock:
      return launch(block_kernel<F>, grid, block, plan.shared, stream, task);
    case Regime::kShared:
      return launch(shared_kernel<F>, grid, block, plan.shared, stream, task);
    case Regime::kStream:
      return launch(stream_kernel<F>, grid, block, plan.shared, stream, task);
    case Regime::kStrided:
      return launch(strided_kernel<F>, grid, block, plan.shared, stream, task);
    case Regime::kSplit: {
      auto* partials = static_cast<Partial<F>*>(workspace);
      const char* const error =
          launch(split_in_kernel<F>, grid, block, plan.shared, stream, task, partials, plan.splits);
      if (error != nullptr) return error;
      return launch(split_out_kernel<F>, grid, block, plan.shared, stream, task, partials,
                    plan.splits);
    }
  }
  return "sn_softmax: no such regime";
}

/// The current device, or CUDA's message.
const char* query(Device& device) {
  int index = 0, per_block = 0, per_multiprocessor = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, index);
  };
  get(&device.multiprocessors, cudaDevAttrMultiProcessorCount);
  get(&device.max_threads, cudaDevAttrMaxThreadsPerBlock);
  get(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  get(&per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  device.shared_per_block = per_block;
  device.shared_per_multiprocessor = per_multiprocessor;
  return message(error);
}

struct Tensors {
  const void* logits;
  const void* grad;
  const void* grad_entropy;
  void* out;
  void* entropy;
};

template <class F>
const char* run(const SNSoftmaxArgs& args, Pass pass, const Tensors& tensors, void* workspace,
                void* stream) {
  using T = typename F::T;
  using S = typename F::S;
  if (args.outer * args.size * args.inner == 0) return nullptr;
  if (args.size > kMaxSize) return "sn_softmax: a row on CUDA has at most 2^31 - 4096 elements";
  Device device;
  const char* const error = query(device);
  if (error != nullptr) return error;
  Task<T> task;
  task.logits = static_cast<const T*>(tensors.logits);
  task.grad = static_cast<const T*>(tensors.grad);
  task.grad_entropy = static_cast<const S*>(tensors.grad_entropy);
  task.out = static_cast<T*>(tensors.out);
  task.entropy = static_cast<S*>(tensors.entropy);
  task.rows = args.outer * args.inner;
  task.inner = args.inner;
  task.size = static_cast<int>(args.size);
  task.aligned = on_pack(tensors.logits) && on_pack(tensors.grad) && on_pack(tensors.out);
  task.absolute = args.smooth == Smooth::kAbsolute;
  task.temperature = view<S>(args.temperature);
  task.smooth_temperature = view<S>(args.smooth_temperature);
  task.inverse_scale = static_cast<S>(1.0 / args.scale);
  return run<F>(sn_softmax_plan(args, pass, device), task, workspace, stream);
}

template <class Run>
const char* dispatch(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kFloat64:
      return run(double{});
    case DType::kFloat16:
      return run(__half{});
    case DType::kBFloat16:
      return run(__nv_bfloat16{});
  }
  return "sn_softmax: no such dtype";
}

}  // namespace

size_t sn_softmax_workspace_cuda(const SNSoftmaxArgs& args) {
  Device device;
  if (args.outer * args.size * args.inner == 0 || query(device) != nullptr) return 0;
  return std::max(sn_softmax_plan(args, Pass::kForward, device).workspace,
                  sn_softmax_plan(args, Pass::kBackward, device).workspace);
}

const char* sn_softmax_forward_cuda(const SNSoftmaxArgs& args, const void* logits, void* probs,
                                    void* entropy, void* workspace, void* stream) {
  return dispatch(args.dtype, [&](auto zero) {
    return run<Forward<decltype(zero)>>(
        args, Pass::kForward, {logits, nullptr, nullptr, probs, entropy}, workspace, stream);
  });
}

const char* sn_softmax_backward_cuda(const SNSoftmaxArgs& args, const void* grad,
                                     const void* grad_entropy, const void* logits,
                                     void* grad_logits, void* workspace, void* stream) {
  const Tensors tensors{logits, grad, grad_entropy, grad_logits, nullptr};
  return dispatch(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    return args.smooth == Smooth::kNone
               ? run<Backward<T, false>>(args, Pass::kBackward, tensors, workspace, stream)
               : run<Backward<T, true>>(args, Pass::kBackward, tensors, workspace, stream);
  });
}

}  // namespace snsoftmax
