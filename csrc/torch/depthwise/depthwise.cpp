// The depthwise convolution's operators: the CPU kernel over threads, the CUDA kernels.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../common/device.h"
#include "../common/dtype.h"
#include "depthwise/depthwise.h"

namespace snsoftmax {

namespace {

using at::Tensor;

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;

/// Of a map, in every direction: what the device's kernels take.
void check_map(const char* name, const Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, name, " must be [N, C, H, W], but has ", map.dim(),
                    " dimensions");
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble ||
                       map.scalar_type() == at::kBFloat16 ||
                       (map.scalar_type() == at::kHalf && !map.is_cpu()),
                   name, " must be float32, float64, bfloat16 or, on CUDA, float16, but is ",
                   map.scalar_type(), " on ", map.device());
}

void check_window(int64_t kernel, int64_t stride, int64_t dilation) {
  TORCH_CHECK_VALUE(depthwise_takes(kernel), "kernel must be 3 or 5, but is ", kernel);
  TORCH_CHECK_VALUE(stride == 1 || stride == 2, "stride must be 1 or 2, but is ", stride);
  TORCH_CHECK_VALUE(dilation >= 1, "dilation must be positive, but is ", dilation);
}

void check(const char* name, const Tensor& map, const Tensor& weight, int64_t stride,
           int64_t dilation) {
  check_map(name, map);
  const c10::SymInt channels = map.sym_size(1);
  TORCH_CHECK_VALUE(weight.device() == map.device(), "weight is on ", weight.device(), ", ", name,
                    " on ", map.device());
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.sym_size(0) == channels &&
                        weight.sym_size(1) == 1 && weight.sym_size(2) == weight.sym_size(3) &&
                        (weight.sym_size(2) == 3 || weight.sym_size(2) == 5),
                    "weight must be [", channels, ", 1, k, k] with k 3 or 5, but has shape ",
                    weight.sym_sizes());
  TORCH_CHECK_TYPE(weight.scalar_type() == opmath(map), "weight must be ", opmath(map), " for ",
                   map.scalar_type(), " maps, but is ", weight.scalar_type());
  check_window(weight.size(2), stride, dilation);
}

void check_backward_weight(const Tensor& grad, const Tensor& x, int64_t kernel, int64_t stride,
                           int64_t dilation) {
  check_map("x", x);
  check_map("grad", grad);
  check_window(kernel, stride, dilation);
  TORCH_CHECK_TYPE(grad.scalar_type() == x.scalar_type(), "grad must be ", x.scalar_type(),
                   " as x is, but is ", grad.scalar_type());
  TORCH_CHECK_VALUE(grad.device() == x.device(), "grad is on ", grad.device(), ", x on ",
                    x.device());
  TORCH_CHECK_VALUE(grad.sym_size(2) == (x.sym_size(2) - 1) / stride + 1 &&
                        grad.sym_size(3) == (x.sym_size(3) - 1) / stride + 1 &&
                        grad.sym_size(0) == x.sym_size(0) && grad.sym_size(1) == x.sym_size(1),
                    "grad has shape ", grad.sym_sizes(), ", which x of ", x.sym_sizes(),
                    " with stride ", stride, " does not give");
}

DepthwiseArgs arguments(const Tensor& like, int64_t height, int64_t width, int64_t kernel,
                        int64_t stride, int64_t dilation) {
  DepthwiseArgs args;
  args.dtype = *kernel_dtype(like.scalar_type());
  args.height = height;
  args.width = width;
  args.channels = like.size(1);
  args.kernel = kernel;
  args.stride = stride;
  args.dilation = dilation;
  return args;
}

/// f(begin, end) over the images, in parts for the threads.
template <class F>
void over_images(const Tensor& map, const F& f) {
  const int64_t each = std::max<int64_t>(1, map.numel() / std::max<int64_t>(1, map.size(0)));
  at::parallel_for(0, map.numel() == 0 ? 0 : map.size(0), std::max<int64_t>(1, 16384 / each), f);
}

template <class Size>
Tensor empty_map(const Tensor& like, Size height, Size width) {
  return at::empty_symint({like.sym_size(0), like.sym_size(1), height, width},
                          like.options().memory_format(kLayout));
}

Tensor forward(const Tensor& given, const Tensor& weight, int64_t stride, int64_t dilation) {
  check("x", given, weight, stride, dilation);
  const Tensor x = given.contiguous(kLayout);
  const Tensor k = weight.contiguous();
  const auto args = arguments(x, x.size(2), x.size(3), k.size(2), stride, dilation);
  Tensor y = empty_map<c10::SymInt>(x, args.out_height(), args.out_width());
#ifdef SNSOFTMAX_WITH_CUDA
  if (x.is_cuda()) {
    on_device("depthwise", x, 0, [&](void*, void* stream) {
      return depthwise_forward_cuda(args, x.size(0), x.const_data_ptr(), k.const_data_ptr(),
                                    y.mutable_data_ptr(), stream);
    });
    return y;
  }
#endif
  over_images(x, [&](int64_t begin, int64_t end) {
    depthwise_forward_cpu(args, x.const_data_ptr(), k.const_data_ptr(), y.mutable_data_ptr(), begin,
                          end);
  });
  return y;
}

Tensor backward_map(const Tensor& given, const Tensor& weight, int64_t height, int64_t width,
                    int64_t stride, int64_t dilation) {
  check("grad", given, weight, stride, dilation);
  const Tensor grad = given.contiguous(kLayout);
  const Tensor k = weight.contiguous();
  const auto args = arguments(grad, height, width, k.size(2), stride, dilation);
  TORCH_CHECK_VALUE(grad.size(2) == args.out_height() && grad.size(3) == args.out_width(),
                    "grad has shape ", grad.sizes(), ", which a map of ", height, "x", width,
                    " with stride ", stride, " does not give");
  Tensor grad_map = empty_map<c10::SymInt>(grad, height, width);
#ifdef SNSOFTMAX_WITH_CUDA
  if (grad.is_cuda()) {
    on_device("depthwise_backward_map", grad, 0, [&](void*, void* stream) {
      return depthwise_backward_map_cuda(args, grad.size(0), grad.const_data_ptr(),
                                         k.const_data_ptr(), grad_map.mutable_data_ptr(), stream);
    });
    return grad_map;
  }
#endif
  over_images(grad_map, [&](int64_t begin, int64_t end) {
    depthwise_backward_map_cpu(args, grad.const_data_ptr(), k.const_data_ptr(),
                               grad_map.mutable_data_ptr(), begin, end);
  });
  return grad_map;
}

Tensor backward_weight(const Tensor& given, const Tensor& map, int64_t kernel, int64_t stride,
                       int64_t dilation) {
  check_backward_weight(given, map, kernel, stride, dilation);
  const Tensor grad = given.contiguous(kLayout);
  const Tensor x = map.contiguous(kLayout);
  const auto args = arguments(x, x.size(2), x.size(3), kernel, stride, dilation);
#ifdef SNSOFTMAX_WITH_CUDA
  if (x.is_cuda()) {
    if (x.numel() == 0) {
      return at::zeros({x.size(1), 1, kernel, kernel}, x.options().dtype(opmath(x)));
    }
    Tensor sums = at::empty({x.size(1), 1, kernel, kernel}, x.options().dtype(opmath(x)));
    const auto bytes =
        static_cast<size_t>(depthwise_parts_cuda(args, x.size(0)) * sums.numel()) * sizeof(double);
    on_device("depthwise_backward_weight", x, bytes, [&](void* parts, void* stream) {
      return depthwise_backward_weight_cuda(args, x.size(0), grad.const_data_ptr(),
                                            x.const_data_ptr(), static_cast<double*>(parts),
                                            sums.mutable_data_ptr(), stream);
    });
    return sums;
  }
#endif
  // A fixed number of parts, whatever the threads: the same sums in the same order.
  const int64_t images = x.size(0);
  const int64_t parts = std::min<int64_t>(images, 16);
  Tensor sums = at::zeros({std::max<int64_t>(parts, 1), x.size(1), 1, kernel, kernel},
                          x.options().dtype(at::kDouble));
  double* const data = sums.mutable_data_ptr<double>();
  const int64_t each = x.size(1) * kernel * kernel;
  at::parallel_for(0, x.numel() == 0 ? 0 : parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      depthwise_backward_weight_cpu(args, grad.const_data_ptr(), x.const_data_ptr(),
                                    data + part * each, images * part / parts,
                                    images * (part + 1) / parts);
    }
  });
  return sums.sum(0).to(opmath(x));
}

Tensor forward_meta(const Tensor& x, const Tensor& weight, int64_t stride, int64_t dilation) {
  check("x", x, weight, stride, dilation);
  return empty_map<c10::SymInt>(x, (x.sym_size(2) - 1) / stride + 1,
                                (x.sym_size(3) - 1) / stride + 1);
}

Tensor backward_map_meta(const Tensor& grad, const Tensor& weight, c10::SymInt height,
                         c10::SymInt width, int64_t stride, int64_t dilation) {
  check("grad", grad, weight, stride, dilation);
  return empty_map<c10::SymInt>(grad, std::move(height), std::move(width));
}

Tensor backward_weight_meta(const Tensor& grad, const Tensor& x, int64_t kernel, int64_t stride,
                            int64_t dilation) {
  check_backward_weight(grad, x, kernel, stride, dilation);
  return at::empty_symint({x.sym_size(1), 1, kernel, kernel}, x.options().dtype(opmath(x)));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def("depthwise(Tensor x, Tensor weight, int stride, int dilation) -> Tensor");
  m.def(
      "depthwise_backward_map(Tensor grad, Tensor weight, SymInt height, SymInt width, int stride, "
      "int dilation) -> Tensor");
  m.def(
      "depthwise_backward_weight(Tensor grad, Tensor x, int kernel, int stride, int dilation) "
      "-> Tensor");
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) {
  m.impl("depthwise", forward);
  m.impl("depthwise_backward_map", backward_map);
  m.impl("depthwise_backward_weight", backward_weight);
}

#ifdef SNSOFTMAX_WITH_CUDA
TORCH_LIBRARY_IMPL(snsoftmax, CUDA, m) {
  m.impl("depthwise", forward);
  m.impl("depthwise_backward_map", backward_map);
  m.impl("depthwise_backward_weight", backward_weight);
}
#endif

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("depthwise", forward_meta);
  m.impl("depthwise_backward_map", backward_map_meta);
  m.impl("depthwise_backward_weight", backward_weight_meta);
}

}  // namespace snsoftmax
