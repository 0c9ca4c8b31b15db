// Where CUDA kernels are launched from.
#pragma once

#ifdef SNSOFTMAX_WITH_CUDA
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace snsoftmax {

/// f(workspace, stream) on the device of `like` and its current stream; the workspace has `bytes`
/// bytes, and is null for none. f returns null, or why the launch failed.
template <class F>
void on_device(const char* name, const at::Tensor& like, size_t bytes, const F& f) {
  const c10::cuda::CUDAGuard guard(like.device());
  const at::Tensor workspace =
      bytes ? at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte))
            : at::Tensor();
  const char* failure = f(bytes ? workspace.mutable_data_ptr() : nullptr,
                          static_cast<void*>(c10::cuda::getCurrentCUDAStream().stream()));
  TORCH_CHECK(failure == nullptr, name, " could not be launched: ", failure);
}

}  // namespace snsoftmax
#endif
