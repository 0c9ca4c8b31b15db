// The CUDA sources on the thread rig, against the reference: every regime, type, edge size,
// alignment and temperature.
//
//   sn_softmax_cuda_test          all cases
//   sn_softmax_cuda_test few      some of every regime, for the slow sanitizers and for mutants
#include <cuda_runtime.h>

#include <set>
#include <tuple>

#include "sn_softmax/sn_softmax_plan.h"
#include "sn_softmax_cases.h"

using namespace snsoftmax;

namespace {

// Which kernels have run; main() asks for all of them.
using Configuration = std::tuple<DType, Pass, Smooth, Regime, int>;
std::set<Configuration> seen;

Device device() {
  return {simt::device.multiprocessors, simt::device.max_threads, simt::device.shared_per_block,
          simt::device.shared_per_multiprocessor, simt::device.capability >= 9};
}

void note(const SNSoftmaxArgs& args, Pass pass) {
  const Plan plan = sn_softmax_plan(args, pass, device());
  const int variant = plan.regime == Regime::kWarp      ? plan.lanes * plan.packs
                      : plan.regime == Regime::kStrided ? plan.threads_y
                      : plan.regime == Regime::kStream  ? plan.kept == packs_of_row(args)
                      : plan.regime == Regime::kCluster ? plan.cluster
                                                        : 0;
  seen.insert({args.dtype, pass, pass == Pass::kForward ? Smooth::kNone : args.smooth, plan.regime,
               variant});
}

/// The calls of the kernel interface, each with exactly the workspace that it asks for, and as many
/// launches as its regime is allowed.
struct OnRig {
  void forward(const SNSoftmaxArgs& args, const std::string& name, const void* logits, void* probs,
               void* entropy) {
    call(args, Pass::kForward, name, [&](void* workspace) {
      return sn_softmax_forward_cuda(args, logits, probs, entropy, workspace, nullptr);
    });
  }

  void backward(const SNSoftmaxArgs& args, const std::string& name, const void* grad,
                const void* grad_entropy, const void* logits, void* grad_logits) {
    call(args, Pass::kBackward, name, [&](void* workspace) {
      return sn_softmax_backward_cuda(args, grad, grad_entropy, logits, grad_logits, workspace,
                                      nullptr);
    });
  }

 private:
  template <class Call>
  void call(const SNSoftmaxArgs& args, Pass pass, const std::string& name, const Call& kernel) {
    Buffer<unsigned char> workspace(static_cast<int64_t>(sn_softmax_workspace_cuda(args)), 0);
    const long before = simt::counters.launches;
    const char* const error = kernel(workspace.data());
    CHECK(error == nullptr, "%s: %s", name.c_str(), error);
    CHECK(workspace.margins_untouched(), "%s: wrote outside the workspace", name.c_str());
    const long wanted = sn_softmax_plan(args, pass, device()).regime == Regime::kSplit ? 2 : 1;
    CHECK(simt::counters.launches - before == wanted, "%s: %ld launches instead of %ld",
          name.c_str(), simt::counters.launches - before, wanted);
    note(args, pass);
  }
};

OnRig rig;

template <class T>
void run(const Case& c) {
  check_case<T>(c, rig);
}

void run_all_types(const Case& c) { check_case_in_all_types(c, rig); }

// ---- the two devices ----

/// Few threads and little memory, so that short rows reach every regime quickly.
void use_tiny_device() { simt::device = {96, 4, 32 << 10, 64 << 10}; }
/// The same without clusters of blocks.
void use_older_device() {
  use_tiny_device();
  simt::device.capability = 8;
}
/// The real thing: the block sizes and limits of an H100.
void use_full_device() { simt::device = simt::Device{}; }

void few() {
  use_tiny_device();
  Case c;
  c.t = 0.25;
  c.logits = Logits::kRising;
  c.outer = 3;
  c.per_row = true;
  for (int64_t size : {5, 8, 33, 200, 700}) {  // a tile, lanes, registers
    c.size = size;
    run_all_types(c);
  }
  c.outer = 2;
  for (int64_t size : {2500, 9000, 40000}) {  // streamed, in a cluster, split
    c.size = size;
    run<float>(c);
    run<__nv_bfloat16>(c);
  }
  use_older_device();  // streamed, kept in part
  c.size = 9000;
  run<float>(c);
  run<__nv_bfloat16>(c);
  use_tiny_device();
  c.size = 130;
  for (int64_t inner : {2, 40}) {
    c.inner = inner;
    run<float>(c);
    run<__half>(c);
  }
}

void all() {
  use_tiny_device();
  // Edge sizes, and every alignment of a row and of a tensor.
  for (int64_t size : {1,  2,   3,   4,   5,   7,   8,   9,   16,  31,  32,   33,   63,  64,
                       65, 100, 127, 128, 129, 255, 256, 257, 384, 513, 1000, 1024, 1025}) {
    Case c;
    c.size = size;
    c.outer = size < 40 ? 67 : 5;
    run_all_types(c);
    c.offset = 1;
    c.smooth = Smooth::kAbsolute;
    run_all_types(c);
    c.outer = 1;
    c.offset = 2;
    c.smooth = Smooth::kNone;
    run_all_types(c);
  }
  const auto long_rows = [](int64_t outer, std::initializer_list<int64_t> sizes) {
    for (int64_t size : sizes) {
      Case c;
      c.size = size;
      c.outer = outer;
      c.logits = Logits::kRising;
      run_all_types(c);
      c.smooth = Smooth::kNone;
      c.offset = 3;
      run_all_types(c);
    }
  };
  use_older_device();
  long_rows(5, {4096, 16001});  // streams, kept whole or in part
  use_tiny_device();
  long_rows(5, {2047, 2048, 3500, 4096, 9001});  // registers, streams, clusters
  long_rows(4, {16000, 30001, 70000});           // larger clusters, and rows that none keeps
  long_rows(2, {16384, 50257, 65537});           // few rows: split; the rest: clusters
  // Temperatures, from a value and from memory, and both smooth terms.
  for (int64_t size : {5, 8, 100, 700, 9000, 70000})
    for (double t : {1e6, 1.0, 1e-3, 1e-4, 1e-6})
      for (Smooth smooth : {Smooth::kScaled, Smooth::kAbsolute}) {
        Case c;
        c.size = size;
        c.outer = size < 1000 ? 4 : 2;
        c.t = t;
        c.per_row = smooth == Smooth::kScaled;
        c.smooth = smooth;
        c.logits = Logits::kSmall;
        run<float>(c);
        run<__half>(c);
        if (size < 1000) run<double>(c);
      }
  // What logits can be.
  for (int64_t size : {1, 2, 5, 8, 100, 700, 3000, 9000, 70000})
    for (Logits logits : {Logits::kWide, Logits::kEqual, Logits::kSpecial}) {
      Case c;
      c.size = size;
      c.outer = size < 50000 ? 5 : 3;
      c.logits = logits;
      c.t = logits == Logits::kEqual ? 1e-4 : 1.0;
      run_all_types(c);
    }
  // Gradients of p alone, of H alone.
  for (int64_t size : {5, 8, 100, 700, 3000, 9000, 70000}) {
    Case c;
    c.size = size;
    c.outer = 3;
    c.with_entropy = false;
    run<float>(c);
    c.with_entropy = true;
    c.with_grad = false;
    c.logits = Logits::kSmall;
    c.t = 1e-3;
    run<float>(c);
    run<__nv_bfloat16>(c);
  }
  // Rows that are not the last dimension.
  for (int64_t inner : {2, 3, 31, 32, 33, 100})
    for (int64_t size : {1, 2, 5, 8, 33, 130, 1000})
      for (Smooth smooth : {Smooth::kScaled, Smooth::kNone}) {
        Case c;
        c.size = size;
        c.inner = inner;
        c.outer = size < 100 ? 3 : 1;
        c.smooth = smooth;
        c.per_row = true;
        c.logits = size % 2 == 0 ? Logits::kSpecial : Logits::kRising;
        run<float>(c);
        run<double>(c);
        run<__half>(c);
        run<__nv_bfloat16>(c);
      }
  {  // more columns than a block has threads
    Case c;
    c.size = 12;
    c.inner = 1000;
    run_all_types(c);
  }
}

/// The block sizes that a real device gets.
void full_device() {
  use_full_device();
  for (int64_t size : {5, 33, 513, 4096, 9001}) {
    Case c;
    c.size = size;
    c.outer = 2;
    c.logits = Logits::kRising;
    run<float>(c);
    run<__nv_bfloat16>(c);
  }
  Case split;
  split.size = 100003;
  split.logits = Logits::kRising;
  run<float>(split);
  Case stream;
  stream.size = 30011;
  stream.outer = 1;
  simt::device.multiprocessors = 1;  // no split
  run<float>(stream);
  Case strided;
  strided.size = 200;
  strided.inner = 33;
  use_full_device();
  run<float>(strided);
}

/// Every kernel has run for every type.
void expect_coverage() {
  for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16})
    for (auto [pass, smooth] :
         std::vector<std::pair<Pass, Smooth>>{{Pass::kForward, Smooth::kNone},
                                              {Pass::kBackward, Smooth::kNone},
                                              {Pass::kBackward, Smooth::kScaled}}) {
      std::vector<std::pair<Regime, int>> wanted = {
          {Regime::kTile, 0},  {Regime::kBlock, 0},   {Regime::kStream, 0}, {Regime::kStream, 1},
          {Regime::kSplit, 0}, {Regime::kStrided, 1}, {Regime::kStrided, 2}};
      for (int blocks : {2, 4, 8}) wanted.push_back({Regime::kCluster, blocks});
      for (int lanes : {1, 2, 4, 8, 16, 32, 64}) wanted.push_back({Regime::kWarp, lanes});
      for (const auto& [regime, variant] : wanted)
        CHECK(seen.count({dtype, pass, smooth, regime, variant}) == 1,
              "no case ran dtype %d pass %d smooth %d regime %d variant %d",
              static_cast<int>(dtype), static_cast<int>(pass), static_cast<int>(smooth),
              static_cast<int>(regime), variant);
    }
}

void expect_refusals() {
  SNSoftmaxArgs args;
  args.outer = 1;
  args.size = kMaxSize + 1;
  const char* const error =
      sn_softmax_forward_cuda(args, nullptr, nullptr, nullptr, nullptr, nullptr);
  CHECK(error != nullptr, "a row that int cannot count was not refused");
  args.size = 0;
  const long before = simt::counters.launches;
  CHECK(sn_softmax_forward_cuda(args, nullptr, nullptr, nullptr, nullptr, nullptr) == nullptr &&
            simt::counters.launches == before,
        "an empty tensor needs no launch");
}

}  // namespace

int main(int argc, char** argv) {
  expect_refusals();
  if (argc > 1 && std::strcmp(argv[1], "few") == 0) {
    few();
  } else {
    all();
    full_device();
    expect_coverage();
  }
  std::printf("%ld launches, %ld blocks, %d failures\n", simt::counters.launches,
              simt::counters.blocks, failures);
  return failures != 0;
}
