// The operators on convolutions whose results are normalised by the node that receives them: the
// forward pass takes each result's moments while it is in a cache, and the backward pass forms the
// gradients that enter it there, from what the node gives: they are never written to memory.
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <utility>

#include "convolve_arguments.h"
#include "mixture/mixture.h"
#include "mixture/mixture_math.h"

namespace snsoftmax {

namespace {

/// Bytes of the results of a group of images, or of their gradients, that stay in the second-level
/// cache.
constexpr int64_t kGroupBytes = 384 * 1024;

/// The images shared out over the threads, and each thread's into groups.
struct Groups {
  ConvolveArgs args;
  int64_t most;   ///< images in a group
  int64_t parts;  ///< one a thread

  Groups(const ConvolveArgs& all, int64_t element_bytes)
      : args(all), parts(std::clamp<int64_t>(all.images, 1, at::get_num_threads())) {
    const int64_t image = pixels() * args.outputs * args.edges * element_bytes;
    most = std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, image));
  }

  int64_t pixels() const { return args.height * args.width; }

  /// f(part, first image, arguments of the images from there on, how many images come next)
  template <class F>
  void parallel(const F& f) const {
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t last = args.images * (part + 1) / parts;
        ConvolveArgs some = args;
        for (int64_t i = args.images * part / parts; i < last; i += most) {
          some.images = std::min(most, last - i);
          f(part, i, some, std::min(most, last - i - some.images));
        }
      }
    });
  }
};

const void* after(const void* data, int64_t bytes) {
  return static_cast<const char*>(data) + bytes;
}
void* after(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }

/// `data` of several maps, `bytes` further on.
template <class P>
std::vector<P> after(const std::vector<P>& data, int64_t bytes) {
  std::vector<P> moved;
  for (P map : data) moved.push_back(after(map, bytes));
  return moved;
}

MixtureArgs normalized_maps(const ConvolveArgs& args, const void* const* maps, int64_t count) {
  MixtureArgs found;
  found.dtype = args.dtype;
  found.pixels = args.images * args.height * args.width;
  found.channels = args.outputs;
  found.normalized = static_cast<int>(count);
  for (int64_t i = 0; i < count; ++i) {
    found.maps[i] = {const_cast<void*>(maps[i]), args.outputs};
  }
  return found;
}

void check_edges(size_t edges) {
  TORCH_CHECK_VALUE(edges <= kMixtureMaps, "at most ", kMixtureMaps,
                    " convolutions are taken together, but there are ", edges);
}

at::TensorOptions of_moments(const Tensor& x) { return x.options().dtype(at::kDouble); }

std::tuple<std::vector<Tensor>, Tensor> forward_cpu(const Tensor& given, TensorList weights) {
  check_convolve(given, weights);
  check_edges(weights.size());
  const Tensor x = given.contiguous(kConvolveLayout);
  const auto args =
      convolve_arguments(x, x.size(1), weights[0].size(0), weights.size(), weights[0].size(2));
  const auto bytes = static_cast<int64_t>(x.element_size());
  const Tensor packed = pack_kernels(args, x, weights, false);
  Made y(weights.size(), {args.images, args.outputs, args.height, args.width}, x.options());
  const Groups groups(args, bytes);
  const int64_t values = args.edges * args.outputs;
  std::vector<double> partials(static_cast<size_t>(groups.parts * 2 * values));
  std::vector<int64_t> seen(static_cast<size_t>(groups.parts));
  groups.parallel([&](int64_t part, int64_t first, const ConvolveArgs& some, int64_t more) {
    const int64_t from = first * groups.pixels() * bytes;
    const std::vector<void*> to = after(y.data, from * args.outputs);
    const void* const given_here = after(x.const_data_ptr(), from * args.inputs);
    const int64_t image = groups.pixels() * bytes * args.inputs;
    convolve_forward_cpu(some, given_here, packed.const_data_ptr(), to.data(), 0, some.tiles(),
                         {&given_here, 1, some.images * image, more * image});
    const auto maps = normalized_maps(some, to.data(), args.edges);
    mixture_statistics_cpu(maps, partials.data() + part * 2 * values, seen[part], 0, maps.pixels);
    seen[part] += maps.pixels;
  });
  Tensor moments = at::empty({args.edges, 2, args.outputs}, of_moments(x));
  double* const to = moments.mutable_data_ptr<double>();
  for (int64_t i = 0; i < values; ++i) {
    Moments total{0.0, 0.0, 0.0};
    for (int64_t part = 0; part < groups.parts; ++part) {
      const double* const from = partials.data() + part * 2 * values + i;
      total.merge({static_cast<double>(seen[part]), from[0], from[values]});
    }
    double* const edge = to + i / args.outputs * 2 * args.outputs + i % args.outputs;
    edge[0] = total.mean;
    edge[args.outputs] = total.m2;
  }
  return {std::move(y.tensors), std::move(moments)};
}

void check_backward(TensorList grads, TensorList maps, TensorList lines,
                    const std::optional<Tensor>& x, TensorList weights) {
  check_convolve_backward_map(grads, weights);
  check_edges(grads.size());
  if (x.has_value()) {
    check_convolve_backward_weight(grads, *x, weights[0].size(2));
    TORCH_CHECK_VALUE(x->sym_size(1) == weights[0].sym_size(1), "weights are for ",
                      weights[0].sym_size(1), " channels, but x has ", x->sym_size(1));
  }
  TORCH_CHECK_VALUE(maps.size() == grads.size() && lines.size() == grads.size(),
                    "there must be a map and a line for each of the ", grads.size(),
                    " gradients, but there are ", maps.size(), " and ", lines.size());
  for (const auto e : c10::irange(grads.size())) {
    TORCH_CHECK_VALUE(maps[e].sym_sizes() == grads[e].sym_sizes(), "maps[", e, "] has shape ",
                      maps[e].sym_sizes(), ", but its gradient ", grads[e].sym_sizes());
    TORCH_CHECK_TYPE(maps[e].scalar_type() == grads[e].scalar_type(), "maps[", e, "] is ",
                     maps[e].scalar_type(), ", but its gradient ", grads[e].scalar_type());
    TORCH_CHECK_VALUE(lines[e].dim() == 2 && lines[e].sym_size(0) == 4 &&
                          lines[e].sym_size(1) == grads[e].sym_size(1),
                      "lines[", e, "] must be [4, ", grads[e].sym_size(1), "], but is ",
                      lines[e].sym_sizes());
    TORCH_CHECK_TYPE(lines[e].scalar_type() == opmath(grads[e]), "lines[", e, "] must be ",
                     opmath(grads[e]), ", but is ", lines[e].scalar_type());
  }
}

/// slope g + tilt (y - mean) + shift of pixels [begin, end) of `args`' maps.
void write_gradients(const MixtureArgs& args, const std::vector<Tensor>& lines,
                     const std::vector<const void*>& grads, const std::vector<void*>& to,
                     int64_t begin, int64_t end) {
  MixtureArgs one = args;
  one.normalized = 1;
  for (const auto e : c10::irange(grads.size())) {
    one.maps[0] = args.maps[e];
    MixtureGradients gradients;
    gradients.maps[0] = {to[e], args.channels};
    mixture_write_cpu(one, nullptr, lines[e].const_data_ptr(),
                      {const_cast<void*>(grads[e]), args.channels}, gradients, begin, end);
  }
}

std::tuple<Tensor, std::vector<Tensor>> backward_cpu(TensorList given_grads, TensorList given_maps,
                                                     TensorList given_lines,
                                                     const std::optional<Tensor>& given_x,
                                                     TensorList weights, bool need_map) {
  check_backward(given_grads, given_maps, given_lines, given_x, weights);
  const Held grads(given_grads), maps(given_maps);
  std::vector<Tensor> lines;
  for (const Tensor& line : given_lines) lines.push_back(line.contiguous());
  const Tensor& g = grads.tensors[0];
  const auto args =
      convolve_arguments(g, weights[0].size(1), g.size(1), weights.size(), weights[0].size(2));
  const auto bytes = static_cast<int64_t>(g.element_size());
  const Groups groups(args, bytes);
  if (args.images < at::get_num_threads()) {  // too few groups: the threads share the pixels
    const Tensor nothing = at::empty({0, args.inputs, args.height, args.width},
                                     g.options().memory_format(kConvolveLayout));
    const Made written(weights.size(), g.sizes(), g.options());
    const auto all = normalized_maps(args, maps.data.data(), args.edges);
    at::parallel_for(0, all.pixels, 1024, [&](int64_t begin, int64_t end) {
      write_gradients(all, lines, grads.data, written.data, begin, end);
    });
    return {need_map ? convolve_backward_map(written.tensors, weights) : nothing,
            given_x ? convolve_backward_weight(written.tensors, *given_x, args.kernel)
                    : std::vector<Tensor>()};
  }
  const Tensor x = given_x ? given_x->contiguous(kConvolveLayout) : Tensor();
  const Tensor packed = need_map ? pack_kernels(args, g, weights, true) : Tensor();
  Tensor grad_map = at::empty({need_map ? args.images : 0, args.inputs, args.height, args.width},
                              g.options().memory_format(kConvolveLayout));
  Tensor sums = at::zeros({groups.parts, x.defined() ? args.kernel_values() : 0},
                          g.options().dtype(opmath(g)));
  const int64_t sums_bytes = sums.size(1) * static_cast<int64_t>(sums.element_size());
  void* const to_map = grad_map.mutable_data_ptr();
  void* const to_sums = sums.mutable_data_ptr();
  const int64_t map_bytes = groups.most * groups.pixels() * args.outputs * bytes;
  const Tensor scratch =
      at::empty({groups.parts, args.edges * map_bytes}, g.options().dtype(at::kByte));
  void* const to_scratch = scratch.mutable_data_ptr();
  groups.parallel([&](int64_t part, int64_t first, const ConvolveArgs& some, int64_t more) {
    const int64_t from = first * groups.pixels() * bytes;
    std::vector<void*> written;
    for (int64_t e = 0; e < args.edges; ++e) {
      written.push_back(after(to_scratch, (part * args.edges + e) * map_bytes));
    }
    const std::vector<const void*> y = after(maps.data, from * args.outputs);
    const std::vector<const void*> of_y = after(grads.data, from * args.outputs);
    const auto here = normalized_maps(some, y.data(), args.edges);
    write_gradients(here, lines, of_y, written, 0, here.pixels);
    std::vector<const void*> read = y;
    read.insert(read.end(), of_y.begin(), of_y.end());
    const int64_t image = groups.pixels() * bytes * args.outputs;
    const ConvolveAhead next{read.data(), static_cast<int64_t>(read.size()), some.images * image,
                             more * image};
    const void* const x_here =
        x.defined() ? after(x.const_data_ptr(), from * args.inputs) : nullptr;
    if (need_map) {
      const ConvolveAhead now{&x_here, 1, 0, some.images * groups.pixels() * bytes * args.inputs};
      convolve_backward_map_cpu(some, written.data(), packed.const_data_ptr(),
                                after(to_map, from * args.inputs), 0, some.tiles(),
                                x.defined() ? now : next);
    }
    if (x.defined()) {
      convolve_backward_weight_cpu(some, written.data(), x_here, after(to_sums, part * sums_bytes),
                                   0, some.tiles(), next);
    }
  });
  return {std::move(grad_map), x.defined() ? merged_weights(args, sums) : std::vector<Tensor>()};
}

std::tuple<std::vector<Tensor>, Tensor> forward_meta(const Tensor& x, TensorList weights) {
  check_convolve(x, weights);
  check_edges(weights.size());
  std::vector<Tensor> y;
  for (const Tensor& w : weights) y.push_back(empty_map(x, w.sym_size(0)));
  return {std::move(y),
          at::empty_symint({static_cast<int64_t>(weights.size()), 2, weights[0].sym_size(0)},
                           of_moments(x))};
}

std::tuple<Tensor, std::vector<Tensor>> backward_meta(TensorList grads, TensorList maps,
                                                      TensorList lines,
                                                      const std::optional<Tensor>& x,
                                                      TensorList weights, bool need_map) {
  check_backward(grads, maps, lines, x, weights);
  Tensor grad_map = empty_map(grads[0], weights[0].sym_size(1));
  std::vector<Tensor> grad_weights;
  if (x) {
    for (const Tensor& w : weights) grad_weights.push_back(at::empty_like(w, kConvolveLayout));
  }
  return {need_map ? grad_map : grad_map.narrow(0, 0, 0), std::move(grad_weights)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snsoftmax, m) {
  m.def("convolve_moments(Tensor x, Tensor[] weights) -> (Tensor[] y, Tensor moments)");
  m.def(
      "convolve_normalized_backward(Tensor[] grads, Tensor[] maps, Tensor[] lines, Tensor? x, "
      "Tensor[] weights, bool need_map) -> (Tensor grad_map, Tensor[] grad_weights)");
}

TORCH_LIBRARY_IMPL(snsoftmax, CPU, m) {
  m.impl("convolve_moments", forward_cpu);
  m.impl("convolve_normalized_backward", backward_cpu);
}

TORCH_LIBRARY_IMPL(snsoftmax, Meta, m) {
  m.impl("convolve_moments", forward_meta);
  m.impl("convolve_normalized_backward", backward_meta);
}

}  // namespace snsoftmax
