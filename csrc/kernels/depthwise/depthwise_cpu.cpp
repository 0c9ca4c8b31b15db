// An image is copied into a frame of zeros, in opmath and rectified if it is to be, so that the
// loops over pixels know no borders; all edges that read the same channels read them there, in a
// frame for the widest of their windows. A register holds adjacent channels;
// the taps of a kernel stay in registers. The gradient of the map is the convolution of the
// gradient, spread by the stride, with the kernel turned around; those of several edges are added
// up in opmath before anything is written.
#include "depthwise/depthwise.h"

#include <algorithm>
#include <vector>

#include "common/capability.h"
#include "common/vec.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(void depthwise_forward(const DepthwiseArgs&, const void*,
                                                        const DepthwiseEdges&, int64_t, int64_t);
                                 void depthwise_backward_map(const DepthwiseArgs&, const void*,
                                                             const DepthwiseEdges&, void*, int64_t,
                                                             int64_t);
                                 void depthwise_backward_weight(const DepthwiseArgs&, const void*,
                                                                const DepthwiseEdges&, double*,
                                                                int64_t, int64_t))

namespace SNSOFTMAX_CAPABILITY {
namespace {

template <class T>
int64_t whole_registers(int64_t channels) {
  return (channels + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

/// The first `left` channels of a register, or all of it.
template <class T>
SNSOFTMAX_INLINE Vector<T> read(const T* from, int64_t left) {
  return left >= kLanes<T> ? load(from) : load_first(from, left, Scalar<T>(0));
}
template <class T>
SNSOFTMAX_INLINE void write(T* to, int64_t left, Vector<T> value) {
  if (left >= kLanes<T>) {
    store(to, value);
  } else {
    store_first(to, left, value);
  }
}

/// Edges [first, last), which read the same `channels` of x, from `begin` on.
struct Readers {
  int first, last;
  int64_t begin, channels;
  int64_t padding;  ///< the widest
};

/// f(Readers) for all edges.
template <class F>
void each_readers(const DepthwiseEdges& edges, const F& f) {
  const int together = edges.apart ? 1 : edges.count;
  for (int first = 0; first < edges.count; first += together) {
    const DepthwiseEdge& any = edges.edge[first];
    Readers readers{first, first + together, any.begin, any.channels, 0};
    for (int e = first; e < readers.last; ++e) {
      readers.padding = std::max<int64_t>(readers.padding, edges.edge[e].padding());
    }
    f(readers);
  }
}

/// Mean and 1 / deviation of the readers' channels, in whole registers.
template <class T>
struct Rectifier {
  std::vector<Scalar<T>> mean, rstd;

  Rectifier(const DepthwiseArgs& args, const Readers& readers)
      : mean(static_cast<size_t>(whole_registers<T>(readers.channels))), rstd(mean) {
    const auto* const means = static_cast<const Scalar<T>*>(args.mean) + readers.begin;
    const auto* const rstds = static_cast<const Scalar<T>*>(args.rstd) + readers.begin;
    std::copy(means, means + readers.channels, mean.begin());
    std::copy(rstds, rstds + readers.channels, rstd.begin());
  }

  SNSOFTMAX_INLINE Vector<T> operator()(Vector<T> x, int64_t c) const {
    return rectified(x, load(mean.data() + c), load(rstd.data() + c));
  }
};

/// A frame of zeros around an image whose pixels are `step` apart; channels fill whole registers.
template <class T>
struct Frame {
  using S = typename Op<T>::scalar;

  int64_t height, width, channels, padding, step, lanes, stride;
  std::vector<S> data;

  /// Around what is `inner_height` times `inner_width` without the zeros.
  Frame(int64_t height_, int64_t width_, const Readers& readers, int64_t step_,
        int64_t inner_height, int64_t inner_width)
      : height(height_),
        width(width_),
        channels(readers.channels),
        padding(readers.padding),
        step(step_),
        lanes(whole_registers<T>(channels)),
        stride((inner_width + 2 * padding) * lanes),
        data(static_cast<size_t>((inner_height + 2 * padding) * stride)) {}

  /// What the first result of a window reads, which needs fewer zeros than there are or as many.
  SNSOFTMAX_INLINE const S* window(const DepthwiseEdge& edge) const {
    return data.data() + (padding - edge.padding()) * (stride + lanes);
  }

  /// f(a register of the image, its channel) is what the frame holds; pixels are `pitch` apart.
  template <class F>
  void fill(const T* image, int64_t pitch, const F& f) {
    for (int64_t h = 0; h < height; ++h) {
      for (int64_t w = 0; w < width; ++w) {
        S* const to = data.data() + (padding + step * h) * stride + (padding + step * w) * lanes;
        const T* const from = image + (h * width + w) * pitch;
        for (int64_t c = 0; c < channels; c += kLanes<T>) {
          store(to + c, f(read(from + c, channels - c), c));
        }
      }
    }
  }
  void fill(const T* image, int64_t pitch) {
    fill(image, pitch, [](Vector<T> v, int64_t) { return v; });
  }
};

/// Kernels as [taps][channels in whole registers], turned around where `turned`.
template <class T>
std::vector<Scalar<T>> pack(const DepthwiseEdge& edge, bool turned) {
  using S = Scalar<T>;
  const auto* const k = static_cast<const S*>(edge.weight);
  const int64_t taps = edge.taps();
  const int64_t lanes = whole_registers<T>(edge.channels);
  std::vector<S> packed(static_cast<size_t>(taps * lanes));
  for (int64_t c = 0; c < edge.channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      packed[static_cast<size_t>((turned ? taps - 1 - tap : tap) * lanes + c)] = k[c * taps + tap];
    }
  }
  return packed;
}

/// emit(pixel, channel, sum of the taps of the edge's window from (stride h, stride w) on).
template <class T, int K, class F>
SNSOFTMAX_INLINE void convolve(const Frame<T>& frame, const DepthwiseEdge& edge,
                               const Scalar<T>* packed, int64_t stride, int64_t height,
                               int64_t width, const F& emit) {
  using V = Vector<T>;
  const int64_t dilation = edge.dilation;
  const auto* const window = frame.window(edge);
  for (int64_t c = 0; c < frame.channels; c += kLanes<T>) {
    V taps[K][K];
    for (int i = 0; i < K; ++i) {
      for (int j = 0; j < K; ++j) taps[i][j] = load(packed + (i * K + j) * frame.lanes + c);
    }
    for (int64_t h = 0; h < height; ++h) {
      const auto* const rows = window + stride * h * frame.stride + c;
      for (int64_t w = 0; w < width; ++w) {
        const auto* const at = rows + stride * w * frame.lanes;
        V sums[K];
        for (int i = 0; i < K; ++i) {
          const auto* const row = at + i * dilation * frame.stride;
          V sum = load(row) * taps[i][0];
          for (int j = 1; j < K; ++j) {
            sum = add_tap(sum, load(row + j * dilation * frame.lanes), taps[i][j]);
          }
          sums[i] = sum;
        }
        V total = sums[0];
        for (int i = 1; i < K; ++i) total += sums[i];
        emit(h * width + w, c, total);
      }
    }
  }
}

/// sums[tap] += sum over pixels of grad times the window's tap.
template <class T, int K>
void correlate(const Frame<T>& frame, const DepthwiseEdge& edge, const T* grad, int64_t stride,
               double* sums, int64_t height, int64_t width) {
  using V = Vector<T>;
  const int64_t dilation = edge.dilation;
  const int64_t pitch = edge.pitch;
  const auto* const window = frame.window(edge);
  const int64_t channels = frame.channels;
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    V taps[K][K] = {};
    const int64_t left = channels - c;
    for (int64_t h = 0; h < height; ++h) {
      const auto* const rows = window + stride * h * frame.stride + c;
      const T* from = grad + h * width * pitch + c;
      for (int64_t w = 0; w < width; ++w, from += pitch) {
        const V g = read(from, left);
        const auto* const at = rows + stride * w * frame.lanes;
        for (int i = 0; i < K; ++i) {
          const auto* const row = at + i * dilation * frame.stride;
          for (int j = 0; j < K; ++j) {
            taps[i][j] = add_tap(taps[i][j], g, load(row + j * dilation * frame.lanes));
          }
        }
      }
    }
    for (int64_t lane = 0; lane < std::min<int64_t>(left, kLanes<T>); ++lane) {
      for (int i = 0; i < K; ++i) {
        for (int j = 0; j < K; ++j) {
          sums[((c + lane) * K + i) * K + j] += static_cast<double>(taps[i][j][lane]);
        }
      }
    }
  }
}

/// f(a std::integral_constant of the edge's kernel size)
template <class F>
void with_kernel(const DepthwiseEdge& edge, const F& f) {
  if (edge.kernel == 3) {
    f(std::integral_constant<int, 3>{});
  } else {
    f(std::integral_constant<int, 5>{});
  }
}

/// u of one image after the other, as the readers have it, in the frame that they convolve.
template <class T>
class Source {
 public:
  Source(const DepthwiseArgs& args, const void* x, const Readers& readers)
      : args_(args),
        x_(static_cast<const T*>(x) + readers.begin),
        frame_(args.height, args.width, readers, 1, args.height, args.width) {
    if (args.mean != nullptr) rectifier_.emplace_back(args, readers);
  }

  const Frame<T>& image(int64_t n) {
    const T* const from = x_ + n * args_.height * args_.width * args_.channels;
    if (rectifier_.empty()) {
      frame_.fill(from, args_.channels);
    } else {
      frame_.fill(from, args_.channels, rectifier_[0]);
    }
    return frame_;
  }

 private:
  const DepthwiseArgs& args_;
  const T* x_;
  Frame<T> frame_;
  std::vector<Rectifier<T>> rectifier_;  // one or none
};

/// Image n of the map of an edge.
template <class T>
T* image_of(const DepthwiseArgs& args, const DepthwiseEdge& edge, int64_t n) {
  return static_cast<T*>(edge.map) + n * args.out_height() * args.out_width() * edge.pitch;
}

/// Of every reader, in order.
template <class T>
std::vector<std::vector<Scalar<T>>> pack_all(const DepthwiseEdges& edges, const Readers& readers,
                                             bool turned) {
  std::vector<std::vector<Scalar<T>>> packed;
  for (int e = readers.first; e < readers.last; ++e) {
    packed.push_back(pack<T>(edges.edge[e], turned));
  }
  return packed;
}

template <class T>
void forward_of(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                const Readers& readers, int64_t begin, int64_t end) {
  Source<T> source(args, x, readers);
  const auto packed = pack_all<T>(edges, readers, false);
  for (int64_t n = begin; n < end; ++n) {
    const Frame<T>& frame = source.image(n);
    for (int e = readers.first; e < readers.last; ++e) {
      const DepthwiseEdge& edge = edges.edge[e];
      T* const to = image_of<T>(args, edge, n);
      with_kernel(edge, [&](auto kernel) {
        convolve<T, kernel.value>(
            frame, edge, packed[static_cast<size_t>(e - readers.first)].data(), args.stride,
            args.out_height(), args.out_width(), [&](int64_t pixel, int64_t c, Vector<T> sum) {
              write(to + pixel * edge.pitch + c, edge.channels - c, sum);
            });
      });
    }
  }
}

template <class T>
void backward_map_of(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                     const Readers& readers, void* grad_map, int64_t begin, int64_t end) {
  using V = Vector<T>;
  Frame<T> frame(args.out_height(), args.out_width(), readers, args.stride, args.height,
                 args.width);
  const auto packed = pack_all<T>(edges, readers, true);
  const int64_t lanes = frame.lanes;
  const int64_t size = args.height * args.width;
  const bool alone = readers.last - readers.first == 1;
  std::vector<Scalar<T>> sums(static_cast<size_t>(alone ? 0 : size * lanes));
  const auto add_edge = [&](int e, const auto& emit) {
    with_kernel(edges.edge[e], [&](auto kernel) {
      convolve<T, kernel.value>(frame, edges.edge[e],
                                packed[static_cast<size_t>(e - readers.first)].data(), 1,
                                args.height, args.width, emit);
    });
  };
  std::vector<Rectifier<T>> rectifier;
  if (args.mean != nullptr) rectifier.emplace_back(args, readers);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t start = n * size * args.channels + readers.begin;
    T* const to = static_cast<T*>(grad_map) + start;
    const auto finish = [&](int64_t pixel, int64_t c, V sum) {
      write(to + pixel * args.channels + c, readers.channels - c, sum);
    };
    for (int e = readers.first; e < readers.last; ++e) {
      frame.fill(image_of<T>(args, edges.edge[e], n), edges.edge[e].pitch);
      const auto add = [&](const auto& emit) {
        if (e == readers.first) {
          add_edge(e, emit);
        } else {
          add_edge(e, [&](int64_t pixel, int64_t c, V sum) {
            emit(pixel, c, load(sums.data() + pixel * lanes + c) + sum);
          });
        }
      };
      if (e + 1 < readers.last) {
        add([&](int64_t pixel, int64_t c, V sum) { store(sums.data() + pixel * lanes + c, sum); });
      } else if (rectifier.empty()) {
        add(finish);
      } else {
        const T* const from = static_cast<const T*>(x) + start;
        add([&](int64_t pixel, int64_t c, V sum) {
          const V u = rectifier[0](read(from + pixel * args.channels + c, readers.channels - c), c);
          finish(pixel, c, gated(sum, u));
        });
      }
    }
  }
}

template <class T>
void backward_weight_of(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                        const Readers& readers, double* grad_weights, int64_t begin, int64_t end) {
  Source<T> source(args, x, readers);
  for (int64_t n = begin; n < end; ++n) {
    const Frame<T>& frame = source.image(n);
    for (int e = readers.first; e < readers.last; ++e) {
      const DepthwiseEdge& edge = edges.edge[e];
      with_kernel(edge, [&](auto kernel) {
        correlate<T, kernel.value>(frame, edge, image_of<T>(args, edge, n), args.stride,
                                   grad_weights + edges.taps_before(e), args.out_height(),
                                   args.out_width());
      });
    }
  }
}

}  // namespace

void depthwise_forward(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                       int64_t begin, int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    each_readers(edges, [&](const Readers& readers) {
      forward_of<decltype(type)>(args, x, edges, readers, begin, end);
    });
  });
}

void depthwise_backward_map(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                            void* grad_map, int64_t begin, int64_t end) {
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    each_readers(edges, [&](const Readers& readers) {
      backward_map_of<decltype(type)>(args, x, edges, readers, grad_map, begin, end);
    });
  });
}

void depthwise_backward_weight(const DepthwiseArgs& args, const void* x,
                               const DepthwiseEdges& edges, double* grad_weights, int64_t begin,
                               int64_t end) {
  std::fill(grad_weights, grad_weights + edges.taps_before(edges.count), 0.0);
  with_type<void, BFloat16>(args.dtype, [&](auto type) {
    each_readers(edges, [&](const Readers& readers) {
      backward_weight_of<decltype(type)>(args, x, edges, readers, grad_weights, begin, end);
    });
  });
}

}  // namespace SNSOFTMAX_CAPABILITY

#ifdef SNSOFTMAX_DEFINE_DISPATCH
void depthwise_forward_cpu(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                           int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(depthwise_forward, args, x, edges, begin, end);
}

void depthwise_backward_map_cpu(const DepthwiseArgs& args, const void* x,
                                const DepthwiseEdges& edges, void* grad_map, int64_t begin,
                                int64_t end) {
  SNSOFTMAX_DISPATCH(depthwise_backward_map, args, x, edges, grad_map, begin, end);
}

void depthwise_backward_weight_cpu(const DepthwiseArgs& args, const void* x,
                                   const DepthwiseEdges& edges, double* grad_weights, int64_t begin,
                                   int64_t end) {
  SNSOFTMAX_DISPATCH(depthwise_backward_weight, args, x, edges, grad_weights, begin, end);
}
#endif

}  // namespace snsoftmax
