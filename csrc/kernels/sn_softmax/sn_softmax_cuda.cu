// sn-softmax on CUDA: the calls. The arithmetic is in sn_softmax_math.h, the choice among the
// kernels in sn_softmax_plan.h.
//
// A kernel is put together from
//   a Formula  what is summed over a row and what is written (sn_softmax_formula_cuda.h),
//   a Row      how a row's elements lie in memory, taken one pack (16 bytes of them) at a time,
//   a Group    the threads that share a row and how they reduce (sn_softmax_packs_cuda.h).
// Reductions have a fixed order and there are no atomics: the same input gives the same bits.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/launch.h"
#include "sn_softmax/sn_softmax.h"
#include "sn_softmax/sn_softmax_kernels_cuda.h"
#include "sn_softmax/sn_softmax_plan.h"

namespace snsoftmax {
namespace {

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
      return launch(plan.packs == 1 ? warp_kernel<F, 1> : warp_kernel<F, kHeldPacks>, grid, block,
                    plan.shared, stream, task, plan.lanes);
    case Regime::kBlock:
      return launch(block_kernel<F>, grid, block, plan.shared, stream, task);
    case Regime::kStream:
      return launch(stream_kernel<F>, grid, block, plan.shared, stream, task, plan.kept);
    case Regime::kCluster:
      return launch_in_clusters(plan.cluster, cluster_kernel<F>, grid, block, plan.shared, stream,
                                task, plan.kept, plan.cluster);
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
  int index = 0, per_block = 0, per_multiprocessor = 0, capability = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, index);
  };
  get(&device.multiprocessors, cudaDevAttrMultiProcessorCount);
  get(&device.max_threads, cudaDevAttrMaxThreadsPerBlock);
  get(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  get(&per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  get(&capability, cudaDevAttrComputeCapabilityMajor);
  device.clusters = capability >= 9;
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

}  // namespace

size_t sn_softmax_workspace_cuda(const SNSoftmaxArgs& args) {
  Device device;
  if (args.outer * args.size * args.inner == 0 || query(device) != nullptr) return 0;
  return std::max(sn_softmax_plan(args, Pass::kForward, device).workspace,
                  sn_softmax_plan(args, Pass::kBackward, device).workspace);
}

const char* sn_softmax_forward_cuda(const SNSoftmaxArgs& args, const void* logits, void* probs,
                                    void* entropy, void* workspace, void* stream) {
  return with_type<__half, __nv_bfloat16>(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Tensors tensors{logits, nullptr, nullptr, probs, entropy};
    return entropy == nullptr
               ? run<Forward<T, false>>(args, Pass::kForward, tensors, workspace, stream)
               : run<Forward<T, true>>(args, Pass::kForward, tensors, workspace, stream);
  });
}

const char* sn_softmax_backward_cuda(const SNSoftmaxArgs& args, const void* grad,
                                     const void* grad_entropy, const void* logits,
                                     void* grad_logits, void* workspace, void* stream) {
  const Tensors tensors{logits, grad, grad_entropy, grad_logits, nullptr};
  return with_type<__half, __nv_bfloat16>(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto call = [&](auto smooth, auto with_entropy) {
      using F = Backward<T, decltype(smooth)::value, decltype(with_entropy)::value>;
      return run<F>(args, Pass::kBackward, tensors, workspace, stream);
    };
    const auto choose = [&](auto smooth) {
      return grad_entropy == nullptr ? call(smooth, std::false_type{})
                                     : call(smooth, std::true_type{});
    };
    return args.smooth == Smooth::kNone ? choose(std::false_type{}) : choose(std::true_type{});
  });
}

}  // namespace snsoftmax
