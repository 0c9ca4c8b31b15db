// Memory for the results of operators.
#pragma once

#include <ATen/ATen.h>

namespace snsoftmax {

struct Result {
  at::Tensor tensor;
  /// Whether stores that bypass the caches pay: it is too large for them, and its pages are there
  /// already. (Fresh pages are zeroed, which leaves a part of them in the caches.)
  bool past_caches;
};

/// An uninitialised tensor in the layout of `like`, which is dense.
///
/// From 8 MiB on, on a CPU under Linux, it lies in huge pages, and the memory of up to four freed
/// results is used again where the size fits. Meanwhile the system may take the pages (MADV_FREE).
Result result_like(const at::Tensor& like);

}  // namespace snsoftmax
