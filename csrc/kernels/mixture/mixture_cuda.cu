// The mixture on CUDA. A block holds a tile of channels, 16 bytes of them ("a pack") a thread, and
// as many pixels side by side as its threads allow. Three launches each way, however many maps:
//
//   forward    statistics of (chunk of pixels, map)     merge_statistics    combine
//   backward   sums of (chunk of pixels, some maps)     merge_sums          write
//
// Threads sum their pixels in opmath; everything across threads and chunks is double, in an order
// that the shapes fix (mixture_reduce_cuda.h). What counts for small maps is latency: a thread
// loads several pixels or maps before it uses the first one, and blocks fill the GPU about once.
// The maps' pointers travel in the kernels' parameters.
#include <algorithm>
#include <type_traits>

#include "common/launch.h"
#include "mixture/mixture.h"
#include "mixture/mixture_backward_cuda.h"
#include "mixture/mixture_forward_cuda.h"

namespace snsoftmax {
namespace {

bool in_packs(const MixtureMap& map, int pack) {
  return reinterpret_cast<uintptr_t>(map.data) % 16 == 0 && map.stride % pack == 0;
}

bool in_vectors(const void* coefficients) {
  return reinterpret_cast<uintptr_t>(coefficients) % 16 == 0;
}

/// f(T{}, std::integral_constant<int, V>{}): V elements are 16 bytes where every map allows that;
/// `others(V)` speaks for the maps that are not in `args`.
template <class T, class Others, class F>
const char* with_pack(const MixtureArgs& args, const Others& others, const F& f) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(T));
  bool whole = args.channels % kPack == 0 && others(kPack);
  for (int i = 0; i < args.normalized + args.plain; ++i) {
    whole = whole && in_packs(args.maps[i], kPack);
  }
  if (whole) return f(T{}, std::integral_constant<int, kPack>{});
  return f(T{}, std::integral_constant<int, 1>{});
}

template <class Others, class F>
const char* dispatch(const MixtureArgs& args, const Others& others, const F& f) {
  return with_type<void, __nv_bfloat16>(args.dtype, [&](auto type) -> const char* {
    return with_pack<decltype(type)>(args, others, f);
  });
}

dim3 grid_of(int64_t x, int64_t y, int64_t z = 1) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

template <int V>
int64_t sums_groups(int maps) {
  return (maps + kMaps<V> - 1) / kMaps<V>;
}

int64_t pixel_blocks(const MixtureArgs& args, const Layout& layout) {
  const int64_t pixels = int64_t{kPixels} * layout.lanes;
  return (args.pixels + pixels - 1) / pixels;
}

unsigned column_blocks(const MixtureArgs& args) {
  return static_cast<unsigned>((args.channels + kColumns - 1) / kColumns);
}

template <class T, int V>
const char* launch_sums(const MixtureArgs& args, int maps, const Layout& layout,
                        const Chunks& chunks, const void* weights, const void* mean,
                        const MixtureMap& grad, double* partials, void* stream) {
  return launch(sums<T, V>, grid_of(sums_groups<V>(maps), layout.tiles, chunks.count),
                dim3(kThreads), 0, stream, args, layout, chunks, maps,
                static_cast<const Opmath<T>*>(weights), static_cast<const Opmath<T>*>(mean), grad,
                partials);
}

}  // namespace

size_t mixture_workspace_cuda(const MixtureArgs& args) {
  const int64_t maps = args.normalized + args.plain;
  const int64_t forward = 2 * args.normalized * kChunks;
  const int64_t backward = (1 + maps) * kChunks + 3 * args.normalized;
  return static_cast<size_t>(std::max(forward, backward) * args.channels) * sizeof(double);
}

const char* mixture_forward_cuda(const MixtureArgs& args, const void* weights,
                                 const MixtureMoments& moments, const MixtureRunning& running,
                                 bool training, double momentum, double eps, void* mean, void* rstd,
                                 MixtureMap out, MixtureMap rectified, void* workspace,
                                 void* stream) {
  bool known = true;
  for (int k = 0; k < args.normalized; ++k) known = known && moments.of[k] != nullptr;
  const auto aligned = [&](int pack) {
    return in_packs(out, pack) && in_packs(rectified, pack) && in_vectors(mean) && in_vectors(rstd);
  };
  return dispatch(args, aligned, [&](auto type, auto width) -> const char* {
    using T = decltype(type);
    using S = Opmath<T>;
    constexpr int V = decltype(width)::value;
    const Layout layout = layout_of(args, V);
    auto* const partials = static_cast<double*>(workspace);
    if (args.normalized > 0) {
      const Chunks chunks = chunks_of(args, layout, args.normalized, kStatisticsBlocks);
      if (training && !known) {
        if (const char* error =
                launch(statistics<T, V>, grid_of(chunks.count, layout.tiles, args.normalized),
                       dim3(kThreads), 0, stream, args, layout, chunks, moments, partials)) {
          return error;
        }
      }
      if (const char* error =
              launch(merge_statistics<S>, grid_of(column_blocks(args), args.normalized),
                     dim3(kThreads), 0, stream, args, chunks, partials, moments, running, training,
                     momentum, eps, static_cast<S*>(mean), static_cast<S*>(rstd))) {
        return error;
      }
    }
    if (args.pixels == 0 || out.data == nullptr) return nullptr;
    return launch(combine<T, V>, grid_of(pixel_blocks(args, layout), layout.tiles), dim3(kThreads),
                  0, stream, args, layout, static_cast<const S*>(weights),
                  static_cast<const S*>(mean), static_cast<const S*>(rstd), out, rectified);
  });
}

const char* mixture_sums_cuda(const MixtureArgs& args, const void* mean, const void* rstd,
                              MixtureMap grad, double* totals, void* grad_weights, void* workspace,
                              void* stream) {
  const auto aligned = [&](int pack) { return in_packs(grad, pack) && in_vectors(mean); };
  return dispatch(args, aligned, [&](auto type, auto width) -> const char* {
    using T = decltype(type);
    using S = Opmath<T>;
    constexpr int V = decltype(width)::value;
    const Layout layout = layout_of(args, V);
    const int maps = args.normalized + (grad_weights != nullptr ? args.plain : 0);
    auto* const partials = static_cast<double*>(workspace);
    const Chunks chunks = chunks_of(args, layout, sums_groups<V>(maps), kSumsBlocks);
    if (const char* error =
            launch_sums<T, V>(args, maps, layout, chunks, nullptr, mean, grad, partials, stream)) {
      return error;
    }
    return launch(merge_sums<S>, grid_of(column_blocks(args) + (grad_weights != nullptr), maps),
                  dim3(kThreads), 0, stream, args, maps, chunks.count, partials,
                  static_cast<const S*>(nullptr), static_cast<const S*>(rstd), true,
                  static_cast<S*>(nullptr), totals, static_cast<S*>(grad_weights));
  });
}

const char* mixture_backward_cuda(const MixtureArgs& args, const void* weights, const void* mean,
                                  const void* rstd, MixtureMap grad,
                                  const MixtureGradients& gradients, const double* given,
                                  void* grad_weights, bool training, void* workspace,
                                  void* stream) {
  bool any_normalized = false;
  bool any = false;
  for (int i = 0; i < args.normalized + args.plain; ++i) {
    any = any || gradients.maps[i].data != nullptr;
    any_normalized = any_normalized || (i < args.normalized && gradients.maps[i].data != nullptr);
  }
  const auto aligned = [&](int pack) {
    bool whole = in_packs(grad, pack) && in_vectors(mean) && in_vectors(workspace);
    for (int i = 0; i < args.normalized + args.plain; ++i) {
      whole = whole && in_packs(gradients.maps[i], pack);
    }
    return whole;
  };
  return dispatch(args, aligned, [&](auto type, auto width) -> const char* {
    using T = decltype(type);
    using S = Opmath<T>;
    constexpr int V = decltype(width)::value;
    const Layout layout = layout_of(args, V);
    // The plain maps are read for the gradient of the weights alone.
    const int maps = args.normalized + (grad_weights != nullptr ? args.plain : 0);
    const bool summed = grad_weights != nullptr || (training && any_normalized);
    const Chunks chunks = chunks_of(args, layout, sums_groups<V>(maps), kSumsBlocks);
    auto* const partials = static_cast<double*>(workspace);
    auto* const lines = reinterpret_cast<S*>(partials + kChunks * (1 + maps) * args.channels);
    const int64_t merged = given != nullptr ? 1 : summed ? chunks.count : 0;
    if (summed && given == nullptr) {
      if (const char* error = launch_sums<T, V>(args, maps, layout, chunks,
                                                grad_weights != nullptr ? nullptr : weights, mean,
                                                grad, partials, stream)) {
        return error;
      }
    }
    if (summed || any_normalized) {
      if (const char* error = launch(
              merge_sums<S>, grid_of(column_blocks(args) + (grad_weights != nullptr), maps),
              dim3(kThreads), 0, stream, args, maps, merged, given != nullptr ? given : partials,
              static_cast<const S*>(weights), static_cast<const S*>(rstd), training, lines,
              static_cast<double*>(nullptr), static_cast<S*>(grad_weights))) {
        return error;
      }
    }
    if (!any || args.pixels == 0) return nullptr;
    const int64_t groups = (args.normalized + args.plain + kWritten - 1) / kWritten;
    return launch(write<T, V>, grid_of(pixel_blocks(args, layout) * groups, layout.tiles),
                  dim3(kThreads), 0, stream, args, layout, static_cast<const S*>(weights),
                  static_cast<const S*>(mean), lines, grad, gradients);
  });
}

}  // namespace snsoftmax
