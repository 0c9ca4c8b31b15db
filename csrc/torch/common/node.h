// autograd Nodes written by hand, as PyTorch's generated code does: unlike
// torch::autograd::Function they work under functorch and cost no Python.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <type_traits>

namespace snsoftmax {

/// std::shared_ptr<Node>, or the intrusive pointer of later PyTorch releases.
using NodePtr = decltype(torch::autograd::Edge::function);

template <class N>
auto make_node() {
  if constexpr (std::is_same_v<NodePtr, std::shared_ptr<torch::autograd::Node>>) {
    // Unqualified: releases without the function need not have it.
    return std::shared_ptr<N>(new N(), [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<N>();
  }
}

/// A Node that compiled autograd refuses in a sentence, since how it traces nodes of C++ changes
/// with every PyTorch release.
struct Node : torch::autograd::Node {
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs&) const override {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "snsoftmax: compiled autograd cannot trace ", name(),
        "; torch.compile the function that calls the operator, which compiles its backward too.");
  }
};

/// True where a tensor is dense on CPU or CUDA and nothing (autocast, functorch, a mode, a
/// subclass) wants to see the operators called on it, so the kernels can be called at once.
inline bool plain(const at::Tensor& t) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet expected(
      {DispatchKey::CPU, DispatchKey::CUDA, DispatchKey::AutogradCPU, DispatchKey::AutogradCUDA,
       DispatchKey::ADInplaceOrView, DispatchKey::BackendSelect});
  const auto tls = c10::impl::tls_local_dispatch_key_set();
  const auto others = ((t.key_set() | tls.included_) - tls.excluded_) - expected;
  // The bit of the device is left, and that of a meta tensor is not told from it.
  return (others.raw_repr() & ~c10::full_backend_mask) == 0 && (t.is_cpu() || t.is_cuda());
}

}  // namespace snsoftmax
