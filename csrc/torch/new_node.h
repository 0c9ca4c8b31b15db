// A node of the autograd graph, whichever torch counts its owners.
#pragma once

#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <type_traits>

namespace snsoftmax {

/// Node, a torch::autograd::Node, in the pointer that this torch's graph holds it by: since 2.14 an
/// intrusive_ptr, before that a shared_ptr.
template <class Node>
auto new_node() {
  using Pointer = decltype(torch::autograd::Edge::function);
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    // Found by its argument's namespace, for it is gone where it is not needed.
    return std::shared_ptr<Node>(new Node(), [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Node>();
  }
}

}  // namespace snsoftmax
