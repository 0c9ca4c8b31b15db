// The operators on convolutions whose results are normalised by the node that receives them: the
// forward pass takes each result's moments while it is in a cache, and the backward pass forms the
// gradients that enter it there, from what the node gives: they are never written to memory. 1x1
// and 3x3 convolutions of a map go together, a group of images after the other: the second kind
// finds the map, and the gradient of it that the first has begun, in the cache.
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <utility>

#include "convolve_arguments.h"
#include "convolve_groups.h"
#include "mixture/mixture.h"
#include "mixture/mixture_math.h"

namespace snsoftmax {

namespace {

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

void check_edges(TensorList weights) {
  for (const int64_t kernel : {1, 3}) {
    const auto edges = std::count_if(weights.begin(), weights.end(),
                                     [&](const Tensor& w) { return w.sym_size(2) == kernel; });
    TORCH_CHECK_VALUE(edges <= kMixtureMaps, "at most ", kMixtureMaps,
                      " convolutions are taken together, but there are ", edges);
  }
}

at::TensorOptions of_moments(const Tensor& x) { return x.options().dtype(at::kDouble); }

std::tuple<std::vector<Tensor>, Tensor> forward_cpu(const Tensor& given, TensorList weights) {
  check_convolve(given, weights, false);
  check_edges(weights);
  const Tensor x = given.contiguous(kConvolveLayout);
  const int64_t inputs = x.size(1), outputs = weights[0].size(0);
  const auto bytes = static_cast<int64_t>(x.element_size());
  const std::vector<Kind> kinds = by_kernel(x, inputs, outputs, weights);
  const Groups groups(kinds, bytes);
  const Made y(weights.size(), {x.size(0), outputs, x.size(2), x.size(3)}, x.options());
  struct State {
    Tensor packed;
    std::vector<double> partials;  ///< [parts, 2, edges, channels]
    std::vector<int64_t> seen;     ///< [parts], pixels
  };
  std::vector<State> states;
  for (const Kind& kind : kinds) {
    const int64_t values = groups.parts * 2 * kind.args.edges * outputs;
    states.push_back({pack_kernels(kind.args, x, kind.weights, false),
                      std::vector<double>(static_cast<size_t>(values)),
                      std::vector<int64_t>(static_cast<size_t>(groups.parts))});
  }
  groups.parallel([&](int64_t part, int64_t first, int64_t count, int64_t more) {
    const int64_t from = first * groups.pixels * bytes;
    const void* const here = after(x.const_data_ptr(), from * inputs);
    const int64_t image = groups.pixels * bytes;
    for (const auto k : c10::irange(kinds.size())) {
      State& state = states[k];
      const ConvolveArgs some = kinds[k].some(count);
      const std::vector<void*> to = after(kinds[k].of(y.data), from * outputs);
      std::vector<ConvolveMemory> next{
          {after(here, count * image * inputs), more * image * inputs}};
      if (k + 1 < kinds.size()) {
        append(next,
               memory_of(after(kinds[k + 1].of(y.data), from * outputs), count * image * outputs));
      }
      convolve_forward_cpu(some, here, state.packed.const_data_ptr(), to.data(), 0, some.tiles(),
                           ahead(next));
      const auto maps = normalized_maps(some, to.data(), some.edges);
      int64_t& seen = state.seen[static_cast<size_t>(part)];
      mixture_statistics_cpu(maps, state.partials.data() + part * 2 * some.edges * outputs, seen, 0,
                             maps.pixels);
      seen += maps.pixels;
    }
  });
  Tensor moments = at::empty({static_cast<int64_t>(weights.size()), 2, outputs}, of_moments(x));
  for (const auto k : c10::irange(kinds.size())) {
    const int64_t values = kinds[k].args.edges * outputs;
    for (int64_t i = 0; i < values; ++i) {
      const Moments total = Moments::of_chunks(
          states[k].partials.data(), groups.parts, values, i,
          [&](int64_t part) { return states[k].seen[static_cast<size_t>(part)]; });
      const auto edge = static_cast<int64_t>(kinds[k].places[static_cast<size_t>(i / outputs)]);
      double* const to = moments.mutable_data_ptr<double>() + edge * 2 * outputs + i % outputs;
      to[0] = total.mean;
      to[outputs] = total.m2;
    }
  }
  return {y.tensors, std::move(moments)};
}

void check_backward(TensorList grads, TensorList maps, TensorList lines,
                    const std::optional<Tensor>& x, TensorList weights) {
  check_convolve_backward_map(grads, weights, false);
  check_edges(weights);
  if (x.has_value()) {
    check_convolve_backward_weight(grads, *x, 1);
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

/// For fewer images than threads, which share the pixels instead.
std::tuple<Tensor, std::vector<Tensor>> backward_of_few(const Held& grads, const Held& maps,
                                                        const std::vector<Tensor>& lines,
                                                        const std::optional<Tensor>& x,
                                                        const std::vector<Kind>& kinds,
                                                        bool need_map) {
  const Tensor& g = grads.tensors[0];
  const Made written(grads.tensors.size(), g.sizes(), g.options());
  const ConvolveArgs& args = kinds[0].args;
  Tensor grad_map;
  std::vector<Tensor> grad_weights(x ? grads.tensors.size() : 0);
  for (const Kind& kind : kinds) {
    const std::vector<const void*> of_maps = kind.of(maps.data);
    const auto all = normalized_maps(kind.args, of_maps.data(), kind.args.edges);
    at::parallel_for(0, all.pixels, 1024, [&](int64_t begin, int64_t end) {
      write_gradients(all, kind.of(lines), kind.of(grads.data), kind.of(written.data), begin, end);
    });
    const std::vector<Tensor> of_kind = kind.of(written.tensors);
    if (need_map) {
      const Tensor part = convolve_backward_map(of_kind, kind.weights);
      grad_map = grad_map.defined() ? grad_map.add_(part) : part;
    }
    if (!x) continue;
    const std::vector<Tensor> found = convolve_backward_weight(of_kind, *x, kind.args.kernel);
    for (const auto i : c10::irange(found.size())) grad_weights[kind.places[i]] = found[i];
  }
  if (!need_map) {
    grad_map = at::empty({0, args.inputs, args.height, args.width},
                         g.options().memory_format(kConvolveLayout));
  }
  return {std::move(grad_map), std::move(grad_weights)};
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
  const int64_t inputs = weights[0].size(1), outputs = g.size(1);
  const auto bytes = static_cast<int64_t>(g.element_size());
  const std::vector<Kind> kinds = by_kernel(g, inputs, outputs, weights);
  if (g.size(0) < at::get_num_threads()) {
    return backward_of_few(grads, maps, lines, given_x, kinds, need_map);
  }
  const Groups groups(kinds, bytes);
  const Tensor x = given_x ? given_x->contiguous(kConvolveLayout) : Tensor();
  Tensor grad_map = at::empty({need_map ? g.size(0) : 0, inputs, g.size(2), g.size(3)},
                              g.options().memory_format(kConvolveLayout));
  void* const to_map = grad_map.mutable_data_ptr();
  struct State {
    Tensor packed;
    Tensor sums;
    void* to_sums;
    int64_t sums_bytes;  ///< of a part
  };
  std::vector<State> states;
  for (const Kind& kind : kinds) {
    Tensor sums = at::zeros({groups.parts, x.defined() ? kind.args.kernel_values() : 0},
                            g.options().dtype(opmath(g)));
    void* const to_sums = sums.mutable_data_ptr();
    const int64_t sums_bytes = sums.size(1) * static_cast<int64_t>(sums.element_size());
    states.push_back({need_map ? pack_kernels(kind.args, g, kind.weights, true) : Tensor(),
                      std::move(sums), to_sums, sums_bytes});
  }
  const int64_t map_bytes = groups.most * groups.pixels * outputs * bytes;
  const Tensor scratch =
      at::empty({groups.parts, groups.edges * map_bytes}, g.options().dtype(at::kByte));
  void* const to_scratch = scratch.mutable_data_ptr();
  groups.parallel([&](int64_t part, int64_t first, int64_t count, int64_t more) {
    const int64_t from = first * groups.pixels * bytes;
    const int64_t image = groups.pixels * bytes;
    std::vector<void*> written;
    for (int64_t e = 0; e < groups.edges; ++e) {
      written.push_back(after(to_scratch, (part * groups.edges + e) * map_bytes));
    }
    const void* const x_here = x.defined() ? after(x.const_data_ptr(), from * inputs) : nullptr;
    const int64_t then = (first + count) * image * outputs;
    std::vector<ConvolveMemory> later =
        memory_of(after(kinds[0].of(grads.data), then), more * image * outputs);
    append(later, memory_of(after(kinds[0].of(maps.data), then), more * image * outputs));
    for (const auto k : c10::irange(kinds.size())) {
      const State& state = states[k];
      ConvolveArgs some = kinds[k].some(count);
      some.adds = k > 0;
      const std::vector<const void*> of_y = after(kinds[k].of(grads.data), from * outputs);
      const std::vector<const void*> read = after(kinds[k].of(maps.data), from * outputs);
      const auto here = normalized_maps(some, read.data(), some.edges);
      write_gradients(here, kinds[k].of(lines), of_y, written, 0, here.pixels);
      std::vector<ConvolveMemory> soon{{x_here, x.defined() ? count * image * inputs : 0}};
      if (k + 1 < kinds.size()) {
        append(soon, memory_of(after(kinds[k + 1].of(maps.data), from * outputs),
                               count * image * outputs));
      }
      if (!x.defined()) append(soon, later);
      if (need_map) {
        convolve_backward_map_cpu(some, written.data(), state.packed.const_data_ptr(),
                                  after(to_map, from * inputs), 0, some.tiles(), ahead(soon));
      }
      if (x.defined()) {
        convolve_backward_weight_cpu(some, written.data(), x_here,
                                     after(state.to_sums, part * state.sums_bytes), 0, some.tiles(),
                                     ahead(later));
      }
    }
  });
  std::vector<Tensor> grad_weights(x.defined() ? weights.size() : 0);
  for (const auto k : c10::irange(x.defined() ? kinds.size() : 0)) {
    const std::vector<Tensor> found = merged_weights(kinds[k].args, states[k].sums);
    for (const auto i : c10::irange(found.size())) grad_weights[kinds[k].places[i]] = found[i];
  }
  return {std::move(grad_map), std::move(grad_weights)};
}

std::tuple<std::vector<Tensor>, Tensor> forward_meta(const Tensor& x, TensorList weights) {
  check_convolve(x, weights, false);
  check_edges(weights);
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
