// The choice of kernel: named examples, and what has to hold for every shape on every device.
#include "sn_softmax/sn_softmax_plan.h"

#include "check.h"

using namespace snsoftmax;

namespace {

constexpr Device kA100{108, 1024, 163 << 10, 164 << 10, false};
constexpr Device kH100{132, 1024, 227 << 10, 228 << 10, true};
constexpr Device kRTX5090{170, 1024, 99 << 10, 100 << 10, true};
constexpr Device kTiny{4, 64, 32 << 10, 64 << 10, true};

SNSoftmaxArgs shape(DType dtype, int64_t outer, int64_t size, int64_t inner = 1) {
  SNSoftmaxArgs args;
  args.dtype = dtype;
  args.outer = outer;
  args.size = size;
  args.inner = inner;
  return args;
}

void test_examples() {
  const auto regime = [](DType dtype, int64_t outer, int64_t size, int64_t inner, Pass pass) {
    return sn_softmax_plan(shape(dtype, outer, size, inner), pass, kH100).regime;
  };
  constexpr DType f32 = DType::kFloat32, bf16 = DType::kBFloat16;
  constexpr Pass forward = Pass::kForward, backward = Pass::kBackward;

  CHECK(regime(f32, 6, 5, 1, forward) == Regime::kTile, "the search's alpha");
  CHECK(regime(f32, 1000000, 8, 1, forward) == Regime::kWarp, "short rows of whole packs");
  CHECK(regime(f32, 8192, 1000, 1, backward) == Regime::kBlock, "a row in registers");
  CHECK(regime(f32, 8192, 5000, 1, backward) == Regime::kStream, "a row in shared memory");
  CHECK(regime(f32, 512, 50257, 1, backward) == Regime::kCluster, "a vocabulary");
  CHECK(sn_softmax_plan(shape(f32, 512, 50257), backward, kA100).regime == Regime::kStream,
        "a vocabulary where there are no clusters");
  CHECK(regime(f32, 1, 200000, 1, forward) == Regime::kSplit, "one long row");
  CHECK(regime(f32, 64, 1000, 49, forward) == Regime::kStrided, "channels");

  const Plan eight = sn_softmax_plan(shape(f32, 1000000, 8), forward, kH100);
  CHECK(eight.lanes == 2 && eight.packs == 1, "8 floats are 2 packs, not %d lanes", eight.lanes);
  const SNSoftmaxArgs vocabulary = shape(bf16, 512, 50257);
  const Plan whole = sn_softmax_plan(vocabulary, forward, kH100);
  CHECK(whole.kept == packs_of_row(vocabulary), "in half precision it fits, not %d", whole.kept);
  const Plan pair = sn_softmax_plan(vocabulary, backward, kH100);
  CHECK(pair.cluster == 2 && 2 * pair.kept >= packs_of_row(vocabulary),
        "with its gradient it fits two blocks, not %d with %d each", pair.cluster, pair.kept);
  const Plan part = sn_softmax_plan(vocabulary, backward, kA100);
  CHECK(part.kept > 0 && part.kept < whole.kept, "or a part of it one, not %d", part.kept);
  const Plan long_row = sn_softmax_plan(shape(f32, 1, 200000), forward, kH100);
  CHECK(long_row.splits > 16, "one row gets %d of 132 multiprocessors", long_row.splits);
  const Plan columns = sn_softmax_plan(shape(f32, 1, 1000, 64), forward, kH100);
  CHECK(columns.threads_y > 1, "64 columns of 1000 are worth more than 64 threads");
  const Plan pixels = sn_softmax_plan(shape(f32, 64, 21, 512 * 512), forward, kH100);
  CHECK(pixels.threads_y == 1 && pixels.shared == 0, "enough columns need no partners");
}

/// What the kernels rely on.
void test_invariants(const Device& device, DType dtype, int64_t outer, int64_t size, int64_t inner,
                     Pass pass) {
  const SNSoftmaxArgs args = shape(dtype, outer, size, inner);
  const Plan plan = sn_softmax_plan(args, pass, device);
  const int64_t rows = outer * inner;
  const int64_t packs = packs_of_row(args);
  const int threads = plan.threads_x * plan.threads_y;
  const int inputs = pass == Pass::kForward ? 1 : 2;
  const auto here = [&](const char* what) {
    std::fprintf(stderr, "[%lld, %lld, %lld] of dtype %d: ", static_cast<long long>(outer),
                 static_cast<long long>(size), static_cast<long long>(inner),
                 static_cast<int>(dtype));
    return what;
  };
#define HOLDS(ok, what) \
  if (!(ok)) CHECK(false, "%s", here(what))

  HOLDS(threads % 32 == 0 && threads >= 32 && threads <= device.max_threads, "whole warps");
  HOLDS(static_cast<int64_t>(plan.shared) <= device.shared_per_block, "shared memory exists");
  HOLDS(plan.blocks >= 1 && plan.blocks < int64_t{1} << 31, "the grid is one that CUDA takes");
  HOLDS((plan.regime == Regime::kStrided) == (inner > 1), "strided rows, and only those");
  HOLDS((plan.workspace > 0) == (plan.regime == Regime::kSplit), "scratch for partial rows only");
  switch (plan.regime) {
    case Regime::kTile:
      HOLDS(plan.blocks * plan.threads_x >= rows && threads <= kTileRows, "a thread for every row");
      HOLDS(static_cast<int64_t>(plan.shared) ==
                inputs * plan.threads_x * size * element_bytes(dtype),
            "room for the tile");
      break;
    case Regime::kWarp:
      HOLDS(plan.lanes <= 32 && (plan.lanes & (plan.lanes - 1)) == 0, "2^k lanes");
      HOLDS(plan.packs == 1 || plan.packs == kHeldPacks, "a kernel that exists");
      HOLDS(plan.packs == 1 || plan.lanes == 32, "several packs for whole warps only");
      HOLDS(plan.lanes * plan.packs >= packs, "the row fits the lanes");
      HOLDS(plan.blocks * (plan.threads_x / plan.lanes) >= rows, "lanes for every row");
      HOLDS(threads <= kWarpThreads, "the launch bound");
      break;
    case Regime::kBlock:
      HOLDS(int64_t{kHeldPacks} * threads >= packs, "the row fits the registers");
      HOLDS(plan.blocks == rows && threads <= kBlockThreads, "a block for every row");
      break;
    case Regime::kCluster:
      HOLDS(device.clusters && plan.cluster > 1 && plan.cluster <= kMaxCluster, "a cluster");
      HOLDS(plan.blocks == rows * plan.cluster && threads <= kBlockThreads, "one for every row");
      HOLDS(static_cast<int64_t>(plan.shared) == kClusterBytes + inputs * plan.kept * kPackBytes,
            "room for it");
      HOLDS(plan.cluster == kMaxCluster || plan.kept == divide_up(packs, plan.cluster), "all fits");
      break;
    case Regime::kStream:
      HOLDS(static_cast<int64_t>(plan.shared) == inputs * plan.kept * kPackBytes, "room for it");
      HOLDS(plan.kept > 0 && plan.kept <= packs, "what is kept is of the row");
      HOLDS(plan.blocks == rows && threads <= kBlockThreads, "a block for every row");
      break;
    case Regime::kSplit:
      HOLDS(plan.blocks == rows * plan.splits && threads <= kBlockThreads, "splits for every row");
      HOLDS(plan.splits > 1 && plan.splits <= kMaxSplits, "several parts");
      HOLDS((plan.splits - 1) * divide_up(packs, plan.splits) < packs, "no part is empty");
      HOLDS(rows < device.multiprocessors, "only where multiprocessors would idle");
      break;
    case Regime::kStrided:
      HOLDS(plan.blocks * plan.threads_x >= rows && threads <= kStridedThreads, "all columns");
      HOLDS(plan.threads_y <= size, "no thread without an element");
      break;
  }
#undef HOLDS
}

}  // namespace

int main() {
  test_examples();
  for (const Device& device : {kA100, kH100, kRTX5090, kTiny})
    for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
      for (Pass pass : {Pass::kForward, Pass::kBackward}) {
        for (int64_t size = 1; size <= 5000; ++size)
          for (int64_t outer : {1, 3, 100, 1000000}) {
            test_invariants(device, dtype, outer, size, 1, pass);
            test_invariants(device, dtype, outer, size, 2, pass);
            test_invariants(device, dtype, outer, size, 3136, pass);
          }
        for (int64_t size : {8192, 16384, 50257, 65536, 131072, 200000, 10000019, 1 << 30})
          for (int64_t outer : {1, 2, 7, 107, 131, 132, 4096}) {
            test_invariants(device, dtype, outer, size, 1, pass);
            test_invariants(device, dtype, outer, size + 1, 1, pass);
          }
        test_invariants(device, dtype, 1, kMaxSize, 1, pass);
      }
  return failures != 0;
}
