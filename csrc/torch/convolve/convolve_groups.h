// How convolutions that are normalised are taken: by sizes of kernels, and by groups of images.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "convolve_arguments.h"

namespace snsoftmax {

/// Bytes of the results of a group of images, or of their gradients, that stay in the second-level
/// cache.
constexpr int64_t kGroupBytes = 192 * 1024;

/// Those of several convolutions of a map whose kernels are of one size.
struct Kind {
  ConvolveArgs args;
  std::vector<size_t> places;  ///< among all
  std::vector<Tensor> weights;

  /// What is theirs of what all have.
  template <class V>
  std::vector<V> of(const std::vector<V>& all) const {
    std::vector<V> found;
    for (const size_t place : places) found.push_back(all[place]);
    return found;
  }

  /// For some of the images.
  ConvolveArgs some(int64_t images) const {
    ConvolveArgs found = args;
    found.images = images;
    return found;
  }
};

/// 3x3 ones come first: the others can add to the gradient of the map that they write.
inline std::vector<Kind> by_kernel(const Tensor& map, int64_t inputs, int64_t outputs,
                                   TensorList weights) {
  std::vector<Kind> kinds;
  for (const int64_t kernel : {3, 1}) {
    Kind kind;
    for (const auto e : c10::irange(weights.size())) {
      if (weights[e].size(2) != kernel) continue;
      kind.places.push_back(e);
      kind.weights.push_back(weights[e]);
    }
    if (kind.places.empty()) continue;
    kind.args = convolve_arguments(map, inputs, outputs, kind.places.size(), kernel);
    kinds.push_back(std::move(kind));
  }
  return kinds;
}

/// The images shared out over the threads, and each thread's into groups.
struct Groups {
  int64_t images;
  int64_t pixels;  ///< of an image
  int64_t edges;   ///< of the kind that has most
  int64_t most;    ///< images in a group
  int64_t parts;   ///< one a thread

  Groups(const std::vector<Kind>& kinds, int64_t element_bytes)
      : images(kinds[0].args.images),
        pixels(kinds[0].args.height * kinds[0].args.width),
        edges(std::max(kinds.front().args.edges, kinds.back().args.edges)),
        parts(std::clamp<int64_t>(images, 1, at::get_num_threads())) {
    const int64_t image = pixels * kinds[0].args.outputs * edges * element_bytes;
    most = std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, image));
  }

  /// f(part, first image, how many, how many come next)
  template <class F>
  void parallel(const F& f) const {
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t last = images * (part + 1) / parts;
        for (int64_t i = images * part / parts; i < last; i += most) {
          const int64_t count = std::min(most, last - i);
          f(part, i, count, std::min(most, last - i - count));
        }
      }
    });
  }
};

inline const void* after(const void* data, int64_t bytes) {
  return static_cast<const char*>(data) + bytes;
}
inline void* after(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }

/// `data` of several maps, `bytes` further on.
template <class P>
std::vector<P> after(const std::vector<P>& data, int64_t bytes) {
  std::vector<P> moved;
  for (P map : data) moved.push_back(after(map, bytes));
  return moved;
}

/// `bytes` of each map.
template <class P>
std::vector<ConvolveMemory> memory_of(const std::vector<P>& maps, int64_t bytes) {
  std::vector<ConvolveMemory> found;
  for (P map : maps) found.push_back({map, bytes});
  return found;
}

inline void append(std::vector<ConvolveMemory>& to, const std::vector<ConvolveMemory>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

inline ConvolveAhead ahead(const std::vector<ConvolveMemory>& parts) {
  return {parts.data(), static_cast<int64_t>(parts.size())};
}

}  // namespace snsoftmax
