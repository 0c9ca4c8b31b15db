// Which CUDA kernel runs, and in what shape: a pure function of the sizes and of the device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "sn_softmax/sn_softmax.h"

namespace snsoftmax {

constexpr int kPackBytes = 16;  ///< the widest global access; a pack is that many bytes of a row
constexpr int kTileRows = 128;  ///< rows, and threads, of a tile
constexpr int kTileRowBytes = 128;          ///< longest row that one thread takes by itself
constexpr int kWarpThreads = 128;           ///< threads of a block whose warps work alone
constexpr int kHeldPacks = 2;               ///< packs that a thread keeps in registers, at most
constexpr int kBlockThreads = 512;          ///< most threads that share a row
constexpr int kStridedThreads = 256;        ///< most threads of a block of strided rows
constexpr int kMaxSums = 5;                 ///< sums over a row: 2 forward, 3 or 5 backward
constexpr int kMaxSplits = 128;             ///< most blocks that share a row
constexpr int kMaxCluster = 8;              ///< most blocks of a cluster, on every device with any
constexpr int kClusterBytes = 2048;         ///< shared memory for what a cluster's blocks exchange
constexpr int64_t kSplitBytes = 128 << 10;  ///< shortest row worth a second launch
constexpr int64_t kMaxSize = (int64_t{1} << 31) - 4096;  ///< a row's elements are counted in int

enum class Pass { kForward, kBackward };

enum class Regime {
  kTile,     ///< short rows that are no whole packs: a thread per row, staged in shared memory
  kWarp,     ///< a row in the registers of 1 to 32 lanes
  kBlock,    ///< a row in the registers of a block
  kStream,   ///< a row gone over twice by one block, its maximum and sums found online; what fits
             ///< stays in shared memory in between
  kCluster,  ///< as kStream, but by a cluster of blocks, in whose shared memory more of it fits
  kSplit,    ///< as kStream, but several blocks per row, and a second launch that merges them
  kStrided,  ///< inner > 1: neighbouring threads have neighbouring rows
};

struct Device {
  int multiprocessors;
  int max_threads;                    ///< per block
  int64_t shared_per_block;           ///< bytes, the most that one may ask for
  int64_t shared_per_multiprocessor;  ///< bytes
  bool clusters;                      ///< whether blocks can form clusters
};

struct Plan {
  Regime regime = Regime::kWarp;
  int lanes = 1;         ///< kWarp: threads per row
  int packs = 1;         ///< kWarp: packs per thread, 1 or kHeldPacks
  int kept = 0;          ///< kStream, kCluster: packs that stay in a block's shared memory
  int cluster = 1;       ///< kCluster: blocks per row
  int threads_x = 1;     ///< the block
  int threads_y = 1;     ///< kStrided: threads per row
  int splits = 1;        ///< kSplit: blocks per row
  int64_t blocks = 0;    ///< the grid
  size_t shared = 0;     ///< bytes of dynamic shared memory
  size_t workspace = 0;  ///< bytes of device scratch
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t element_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

/// Packs that a contiguous row touches: rows that are no whole packs start anywhere in one.
inline int64_t packs_of_row(const SNSoftmaxArgs& args) {
  const int64_t elements = kPackBytes / element_bytes(args.dtype);
  const bool whole = args.size % elements == 0;
  return divide_up(args.size + (whole ? 0 : elements - 1), elements);
}

inline int power_of_two_at_least(int64_t n) {
  int p = 1;
  while (p < n) p *= 2;
  return p;
}

namespace plan_detail {

inline Plan strided(const SNSoftmaxArgs& args, const Device& device) {
  const int64_t rows = args.outer * args.inner;
  const int most = std::min(kStridedThreads, device.max_threads);
  Plan plan;
  plan.regime = Regime::kStrided;
  // Threads join a row while there are too few rows for 16 warps per multiprocessor.
  while (64 * plan.threads_y <= most && 16 * plan.threads_y <= args.size &&
         divide_up(rows, 32) * plan.threads_y < int64_t{16} * device.multiprocessors)
    plan.threads_y *= 2;
  plan.threads_x = std::max(32, std::min(kWarpThreads, device.max_threads) / plan.threads_y);
  plan.blocks = divide_up(rows, plan.threads_x);
  const size_t opmath = args.dtype == DType::kFloat64 ? 8 : 4;
  plan.shared =
      plan.threads_y == 1 ? 0 : size_t{1 + kMaxSums} * plan.threads_x * plan.threads_y * opmath;
  return plan;
}

}  // namespace plan_detail

/// The kernel for `args`: sizes are positive and size <= kMaxSize. Alignment does not enter: the
/// kernels see to it themselves.
inline Plan sn_softmax_plan(const SNSoftmaxArgs& args, Pass pass, const Device& device) {
  if (args.inner > 1) return plan_detail::strided(args, device);

  const int64_t rows = args.outer;
  const int64_t row_bytes = args.size * element_bytes(args.dtype);
  const int64_t inputs = pass == Pass::kForward ? 1 : 2;
  const int64_t packs = packs_of_row(args);
  Plan plan;

  if (row_bytes <= kTileRowBytes && row_bytes % kPackBytes != 0) {
    plan.regime = Regime::kTile;
    plan.threads_x = std::min(kTileRows, device.max_threads);
    plan.blocks = divide_up(rows, plan.threads_x);
    plan.shared = static_cast<size_t>(inputs * plan.threads_x * row_bytes);
    return plan;
  }

  if (packs <= 32 * kHeldPacks) {
    plan.regime = Regime::kWarp;
    plan.lanes = std::min(32, power_of_two_at_least(packs));
    plan.packs = power_of_two_at_least(divide_up(packs, 32));
    plan.threads_x = std::min(kWarpThreads, device.max_threads);
    plan.blocks = divide_up(rows, plan.threads_x / plan.lanes);
    return plan;
  }

  const int most = std::min(kBlockThreads, device.max_threads);
  plan.blocks = rows;
  if (packs <= int64_t{kHeldPacks} * most) {
    plan.regime = Regime::kBlock;
    plan.threads_x = static_cast<int>(32 * divide_up(packs, 32 * kHeldPacks));
    return plan;
  }

  plan.threads_x = most;
  if (rows < device.multiprocessors && row_bytes >= kSplitBytes) {
    // Two blocks for every multiprocessor, each with a few rounds of loads to itself.
    const int64_t wanted = divide_up(2 * int64_t{device.multiprocessors}, rows);
    const int64_t useful = divide_up(packs, int64_t{kHeldPacks} * kBlockThreads);
    const int64_t splits = std::min({wanted, useful, int64_t{kMaxSplits}});
    plan.splits = static_cast<int>(divide_up(packs, divide_up(packs, splits)));  // none is empty
  }
  if (plan.splits > 1) {
    plan.regime = Regime::kSplit;
    plan.blocks = rows * plan.splits;
    const size_t opmath = args.dtype == DType::kFloat64 ? 8 : 4;
    plan.workspace = static_cast<size_t>(plan.blocks) * (1 + kMaxSums) * opmath;
    return plan;
  }

  // Two blocks fit a multiprocessor, so that one loads while the other computes; 4 KiB are left
  // for what the block needs besides the row.
  const int64_t room = std::min(device.shared_per_block, device.shared_per_multiprocessor / 2);
  const int64_t fits = (room - 4096) / (inputs * kPackBytes);
  plan.regime = Regime::kStream;
  if (packs > fits && device.clusters) {
    plan.regime = Regime::kCluster;
    while (plan.cluster < kMaxCluster && divide_up(packs, plan.cluster) > fits) plan.cluster *= 2;
    plan.blocks = rows * plan.cluster;
    plan.shared = kClusterBytes;
  }
  plan.kept = static_cast<int>(std::min(divide_up(packs, plan.cluster), fits));
  plan.shared += static_cast<size_t>(plan.kept * inputs * kPackBytes);
  return plan;
}

}  // namespace snsoftmax
