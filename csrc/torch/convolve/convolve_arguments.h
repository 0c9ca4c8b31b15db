// What the operators on convolutions share: how they see tensors and share out the work.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "../common/dtype.h"
#include "convolve/convolve.h"

namespace snsoftmax {

using at::Tensor;
using at::TensorList;

constexpr auto kConvolveLayout = at::MemoryFormat::ChannelsLast;

// Nothing here reads data, and shapes may be symbolic.
void check_convolve(const Tensor& x, TensorList weights, bool one_size = true);
void check_convolve_backward_map(TensorList grads, TensorList weights, bool one_size = true);
void check_convolve_backward_weight(TensorList grads, const Tensor& x, int64_t kernel,
                                    int64_t stride = 1);

/// Of convolutions of maps like `map`.
ConvolveArgs convolve_arguments(const Tensor& map, int64_t inputs, int64_t outputs, size_t edges,
                                int64_t kernel);

/// Kernels as convolve_forward_cpu or, `backward`, convolve_backward_map_cpu take them, for a map
/// like `like`.
Tensor pack_kernels(const ConvolveArgs& args, const Tensor& like, TensorList weights,
                    bool backward);

/// The gradients of the weights from sums [parts, kernel_values()].
std::vector<Tensor> merged_weights(const ConvolveArgs& args, const Tensor& sums);

// What is given has been checked.
std::vector<Tensor> run_convolve_forward(const ConvolveArgs& args, const Tensor& x,
                                         TensorList weights);
Tensor run_convolve_backward_map(const ConvolveArgs& args, TensorList grads, TensorList weights);
std::vector<Tensor> run_convolve_backward_weight(const ConvolveArgs& args, TensorList grads,
                                                 const Tensor& x);

// Of stride 1; what is given is checked.
Tensor convolve_backward_map(TensorList grads, TensorList weights);
std::vector<Tensor> convolve_backward_weight(TensorList grads, const Tensor& x, int64_t kernel);

/// A map like `like`, with other channels; shapes may be symbolic.
Tensor empty_map(const Tensor& like, const c10::SymInt& channels);

/// For the gradient of the weight of a convolution of x.
Tensor empty_weight(const Tensor& grad, const Tensor& x, int64_t kernel);

/// Tensors laid out as the kernels need, and where they are.
struct Held {
  std::vector<Tensor> tensors;
  std::vector<const void*> data;

  explicit Held(TensorList given) {
    for (const Tensor& t : given) {
      tensors.push_back(t.contiguous(kConvolveLayout));
      data.push_back(tensors.back().const_data_ptr());
    }
  }
};

/// New tensors, and where they are.
struct Made {
  std::vector<Tensor> tensors;
  std::vector<void*> data;

  Made(size_t count, at::IntArrayRef sizes, const at::TensorOptions& options) {
    for (size_t i = 0; i < count; ++i) {
      tensors.push_back(at::empty(sizes, options.memory_format(kConvolveLayout)));
      data.push_back(tensors.back().mutable_data_ptr());
    }
  }
};

}  // namespace snsoftmax
