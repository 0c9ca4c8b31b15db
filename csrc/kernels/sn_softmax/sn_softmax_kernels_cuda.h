// The CUDA kernels of sn-softmax, one for each regime of sn_softmax_plan.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/launch.h"
#include "sn_softmax/sn_softmax_packs_cuda.h"

namespace snsoftmax {
namespace {

/// For __launch_bounds__: left to itself, ptxas would rather spill a double than lose occupancy.
template <class F>
constexpr int kResident = sizeof(typename F::S) == 8 ? 1 : 2;
/// Half types hold so many elements backward that 64 registers are a few too few.
template <class F>
constexpr int kRegisterResident = F::kBackward && sizeof(typename F::T) == 2 ? 1 : kResident<F>;

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

/// The incoming gradients of a pack; forward there are none.
template <class F>
__device__ __forceinline__ Wide<typename F::T> gradients(const Inputs<F>& in) {
  if constexpr (F::kBackward)
    return widen(in.g);
  else
    return {};
}

template <class F>
__device__ __forceinline__ typename F::S largest(const Inputs<F>& in, typename F::S max) {
  const auto a = widen(in.a);
#pragma unroll
  for (int k = 0; k < kElements<typename F::T>; ++k) max = larger(max, a.values[k]);
  return max;
}

template <class F>
__device__ __forceinline__ void add(F& formula, const Inputs<F>& in, typename F::S max) {
  const auto a = widen(in.a);
  const auto g = gradients(in);
#pragma unroll
  for (int k = 0; k < kElements<typename F::T>; ++k) formula.add(max, a.values[k], g.values[k]);
}

template <class F>
__device__ __forceinline__ Pack<typename F::T> outputs(const F& formula, const Inputs<F>& in,
                                                       typename F::S max) {
  const auto a = widen(in.a);
  const auto g = gradients(in);
  Pack<typename F::T> out;
#pragma unroll
  for (int k = 0; k < kElements<typename F::T>; k += 2)
    store_pair(out.values + k, formula.output(max, a.values[k], g.values[k]),
               formula.output(max, a.values[k + 1], g.values[k + 1]));
  return out;
}

/// Half types have so many elements to a pack that what was made of them, in float, costs less to
/// make again than the registers to keep it: the compiler is told to.
template <class F, int kPacks>
__device__ __forceinline__ void forget(Inputs<F> (&in)[kPacks]) {
  if constexpr (sizeof(typename F::T) == 2) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      in[i].a = opaque(in[i].a);
      if constexpr (F::kBackward) in[i].g = opaque(in[i].g);
    }
  }
}

template <class F, class Group>
__device__ __forceinline__ void reduce(F& formula, const Group& group) {
  typename F::S sums[F::kSums];
  formula.get(sums);
  group.sum(sums);
  formula.set(sums);
  formula.finish();
}

// ---- rows that are held in registers while they are worked on ----

/// The group's row, kPacks of it in the registers of every thread.
template <class F, int kPacks, class Group>
__device__ __forceinline__ void solve_held(const Task<typename F::T>& task, int64_t row_index,
                                           const Group& group) {
  using S = typename F::S;
  const ContiguousRow<typename F::T> row(task, row_index);
  F formula(task, row_index < task.rows ? row_index : 0);

  Inputs<F> in[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) in[i] = load<F>(task, row, group.index() + i * group.size());
  S max = Limits<S>::lowest;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) max = largest(in[i], max);
  max = group.max(max);
  forget(in);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) add(formula, in[i], max);
  reduce(formula, group);
  forget(in);
  if constexpr (sizeof(typename F::T) == 2) max = opaque(max);
#pragma unroll
  for (int i = 0; i < kPacks; ++i)
    row.store(task.out, group.index() + i * group.size(), outputs(formula, in[i], max));
  if (group.index() == 0 && row_index < task.rows) formula.write_row(task, row_index);
}

template <class F, int kPacks>
__global__ void __launch_bounds__(kWarpThreads, kResident<F>)
    warp_kernel(Task<typename F::T> task, int lanes) {
  const LaneGroup group{kPacks > 1 ? 32 : lanes};
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / group.lanes) + threadIdx.x / group.lanes;
  solve_held<F, kPacks>(task, row, group);
}

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kRegisterResident<F>)
    block_kernel(Task<typename F::T> task) {
  __shared__ BlockBuffer<typename F::S> buffer;
  solve_held<F, kHeldPacks>(task, blockIdx.x, BlockGroup<typename F::S>{buffer});
}

// ---- rows that are gone over twice ----

constexpr int kRound = 2;  // packs that a thread loads at once, to have them all under way

/// Packs [begin, end) of a row, in shared memory from the first time to the second; a thread sees
/// only what it put there itself.
template <class F>
struct Kept {
  Inputs<F>* packs;
  int begin;
  int end;

  __device__ __forceinline__ bool has(int p) const { return p < end; }
  __device__ __forceinline__ void put(int p, const Inputs<F>& in) const { packs[p - begin] = in; }
  __device__ __forceinline__ Inputs<F> get(int p) const { return packs[p - begin]; }
};
/// Nothing is kept: the second time reads all of it again.
template <class F>
struct NothingKept {
  __device__ __forceinline__ bool has(int) const { return false; }
  __device__ __forceinline__ void put(int, const Inputs<F>&) const {}
  __device__ __forceinline__ Inputs<F> get(int) const { return {}; }
};

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
template <class F, class Row, class Group, class Keep>
__device__ __forceinline__ typename F::S stream_in(const Task<typename F::T>& task, const Row& row,
                                                   const Group& group, int begin, int end,
                                                   const Keep& kept, F& formula) {
  typename F::S max = Limits<typename F::S>::lowest;
  for (int first = begin + group.index(); first < end; first += kRound * group.size()) {
    Inputs<F> in[kRound];
    load_round(task, row, group, first, end, in);
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      const int p = first + i * group.size();
      if (kept.has(p)) kept.put(p, in[i]);
    }
    const typename F::S before = max;
#pragma unroll
    for (int i = 0; i < kRound; ++i) max = largest(in[i], max);
    formula.rescale(before, max);
#pragma unroll
    for (int i = 0; i < kRound; ++i) add(formula, in[i], max);
  }
  return max;
}

/// Writes the packs [begin, end), last round first: what was read last is still in the caches, and
/// what was read first has been kept.
template <class F, class Row, class Group, class Keep>
__device__ __forceinline__ void stream_out(const Task<typename F::T>& task, const Row& row,
                                           const Group& group, int begin, int end, const Keep& kept,
                                           const F& formula, typename F::S max) {
  const int round = kRound * group.size();
  for (int rounds = (end - begin + round - 1) / round; rounds > 0; --rounds) {
    const int first = begin + (rounds - 1) * round + group.index();
    Inputs<F> in[kRound];
    if (kept.has(first + (kRound - 1) * group.size())) {
#pragma unroll
      for (int i = 0; i < kRound; ++i) in[i] = kept.get(first + i * group.size());
    } else {
      load_round(task, row, group, first, end, in);
    }
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      const int p = first + i * group.size();
      if (p < end) row.store(task.out, p, outputs(formula, in[i], max));
    }
  }
}

template <class F, class Row, class Group, class Keep>
__device__ __forceinline__ void solve_streamed(const Task<typename F::T>& task, int64_t row_index,
                                               const Group& group, const Keep& kept) {
  const Row row(task, row_index);
  F formula(task, row_index < task.rows ? row_index : 0);
  const typename F::S own = stream_in(task, row, group, 0, row.packs(), kept, formula);
  const typename F::S max = group.max(own);
  formula.rescale(own, max);
  reduce(formula, group);
  stream_out(task, row, group, 0, row.packs(), kept, formula, max);
  if (group.index() == 0 && row_index < task.rows) formula.write_row(task, row_index);
}

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kResident<F>)
    stream_kernel(Task<typename F::T> task, int kept) {
  __shared__ BlockBuffer<typename F::S> buffer;
  solve_streamed<F, ContiguousRow<typename F::T>>(task, blockIdx.x,
                                                  BlockGroup<typename F::S>{buffer},
                                                  Kept<F>{dynamic_shared<Inputs<F>>(), 0, kept});
}

template <class F>
__global__ void __launch_bounds__(kStridedThreads, kResident<F>)
    strided_kernel(Task<typename F::T> task) {
  const ColumnGroup<typename F::S> group{dynamic_shared<typename F::S>()};
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  solve_streamed<F, StridedRow<typename F::T>>(task, row, group, NothingKept<F>{});
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
  const typename F::S own =
      stream_in(task, row, group, span.begin, span.end, NothingKept<F>{}, formula);
  const Partial<F> mine = part(group, own, formula);
  if (group.index() == 0) partials[blockIdx.x] = mine;
}

/// This block's part, the same in every thread.
template <class F, class Group>
__device__ __forceinline__ Partial<F> part(const Group& group, typename F::S own, F& formula) {
  Partial<F> partial;
  partial.max = group.max(own);
  formula.rescale(own, partial.max);
  formula.get(partial.sums);
  group.sum(partial.sums);
  return partial;
}

/// Merges the parts partial(0), ... of a row, in every warp alike. Returns the row's maximum.
template <class F, class At>
__device__ __forceinline__ typename F::S merge(const At& partial, int splits, F& formula) {
  using S = typename F::S;
  const LaneGroup warp{32};
  S max = Limits<S>::lowest;
  for (int i = warp.index(); i < splits; i += warp.size()) max = larger(max, partial(i).max);
  max = warp.max(max);
  S total[F::kSums] = {};
  for (int i = warp.index(); i < splits; i += warp.size()) {
    S sums[F::kSums];
    formula.set(partial(i).sums);
    formula.rescale(partial(i).max, max);
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
  const Partial<F>* const of_row = partials + row_index * splits;
  const auto at = [&](int i) -> const Partial<F>& { return of_row[i]; };
  const typename F::S max = merge(at, splits, formula);
  stream_out(task, row, group, span.begin, span.end, NothingKept<F>{}, formula, max);
  if (split == 0 && group.index() == 0) formula.write_row(task, row_index);
}

/// What the blocks of a cluster have in shared memory before the packs of their row.
template <class F>
struct alignas(kPackBytes) ClusterShared {
  BlockBuffer<typename F::S> buffer;
  Partial<F> partial;
};

template <class F>
__global__ void __launch_bounds__(kBlockThreads, kResident<F>)
    cluster_kernel(Task<typename F::T> task, int kept, int blocks) {
  static_assert(sizeof(ClusterShared<F>) <= kClusterBytes, "the plan leaves too little");
  auto* const shared = dynamic_shared<ClusterShared<F>>();
  auto* const packs = reinterpret_cast<Inputs<F>*>(dynamic_shared<unsigned char>() + kClusterBytes);
  const BlockGroup<typename F::S> group{shared->buffer};
  const Cluster cluster;
  const int64_t row_index = blockIdx.x / blocks;
  const ContiguousRow<typename F::T> row(task, row_index);
  const Span span(row.packs(), cluster.rank(), blocks);
  const int keep = span.end - span.begin < kept ? span.end - span.begin : kept;
  const Kept<F> held{packs, span.begin, span.begin + keep};
  F formula(task, row_index);
  const typename F::S own = stream_in(task, row, group, span.begin, span.end, held, formula);
  const Partial<F> mine = part(group, own, formula);
  if (group.index() == 0) shared->partial = mine;
  cluster.arrive();
  cluster.wait();
  const auto at = [&](int i) -> const Partial<F>& {
    return *cluster.in_block(i, &shared->partial);
  };
  const typename F::S max = merge(at, blocks, formula);
  cluster.arrive();
  stream_out(task, row, group, span.begin, span.end, held, formula, max);
  if (cluster.rank() == 0 && group.index() == 0) formula.write_row(task, row_index);
  cluster.wait();  // a block that others still read must not end
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

}  // namespace
}  // namespace snsoftmax
