// An image is copied into a frame of zeros, in opmath and rectified if it is to be, so that the
// loops over pixels know no borders; all edges read it there. A register holds adjacent channels;
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

/// Mean and 1 / deviation of the channels, in whole registers.
template <class T>
struct Rectifier {
  std::vector<Scalar<T>> mean, rstd;

  explicit Rectifier(const DepthwiseArgs& args)
      : mean(static_cast<size_t>(whole_registers<T>(args.channels))), rstd(mean) {
    const auto* const means = static_cast<const Scalar<T>*>(args.mean);
    const auto* const rstds = static_cast<const Scalar<T>*>(args.rstd);
    std::copy(means, means + args.channels, mean.begin());
    std::copy(rstds, rstds + args.channels, rstd.begin());
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

  Frame(int64_t height_, int64_t width_, int64_t channels_, int64_t padding_, int64_t step_,
        int64_t outer_height, int64_t outer_width)
      : height(height_),
        width(width_),
        channels(channels_),
        padding(padding_),
        step(step_),
        lanes(whole_registers<T>(channels_)),
        stride(outer_width * lanes),
        data(static_cast<size_t>(outer_height * stride)) {}

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
std::vector<Scalar<T>> pack(const DepthwiseArgs& args, const void* weight, bool turned) {
  using S = Scalar<T>;
  const auto* const k = static_cast<const S*>(weight);
  const int64_t taps = args.kernel * args.kernel;
  const int64_t lanes = whole_registers<T>(args.channels);
  std::vector<S> packed(static_cast<size_t>(taps * lanes));
  for (int64_t c = 0; c < args.channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      packed[static_cast<size_t>((turned ? taps - 1 - tap : tap) * lanes + c)] = k[c * taps + tap];
    }
  }
  return packed;
}

/// emit(pixel, channel, sum of the taps of the frame from (stride h, stride w) on).
template <class T, int K, class F>
SNSOFTMAX_INLINE void convolve(const Frame<T>& frame, const Scalar<T>* packed, int64_t stride,
                               int64_t dilation, int64_t height, int64_t width, const F& emit) {
  using V = Vector<T>;
  for (int64_t c = 0; c < frame.channels; c += kLanes<T>) {
    V taps[K][K];
    for (int i = 0; i < K; ++i) {
      for (int j = 0; j < K; ++j) taps[i][j] = load(packed + (i * K + j) * frame.lanes + c);
    }
    for (int64_t h = 0; h < height; ++h) {
      const auto* const rows = frame.data.data() + stride * h * frame.stride + c;
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

/// sums[tap] += sum over pixels of grad times the frame's tap.
template <class T, int K>
void correlate(const Frame<T>& frame, const T* grad, int64_t pitch, int64_t stride,
               int64_t dilation, double* sums, int64_t height, int64_t width) {
  using V = Vector<T>;
  const int64_t channels = frame.channels;
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    V taps[K][K] = {};
    const int64_t left = channels - c;
    for (int64_t h = 0; h < height; ++h) {
      const auto* const rows = frame.data.data() + stride * h * frame.stride + c;
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

/// f(a T, a std::integral_constant of the kernel size)
template <class F>
void with_type_and_kernel(const DepthwiseArgs& args, const F& f) {
  const auto with_kernel = [&](auto type) {
    if (args.kernel == 3) {
      f(type, std::integral_constant<int, 3>{});
    } else {
      f(type, std::integral_constant<int, 5>{});
    }
  };
  with_type<void, BFloat16>(args.dtype, with_kernel);
}

/// u of one image after the other, in the frame that it is convolved in.
template <class T>
class Source {
 public:
  Source(const DepthwiseArgs& args, const void* x)
      : args_(args),
        x_(static_cast<const T*>(x)),
        frame_(args.height, args.width, args.channels, args.padding(), 1,
               args.height + 2 * args.padding(), args.width + 2 * args.padding()) {
    if (args.mean != nullptr) rectifier_.emplace_back(args);
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
T* image_of(const DepthwiseArgs& args, const DepthwiseEdges& edges, int e, int64_t n) {
  return static_cast<T*>(edges.maps[e]) + n * args.out_height() * args.out_width() * edges.pitch;
}

template <class T>
std::vector<std::vector<Scalar<T>>> pack_all(const DepthwiseArgs& args, const DepthwiseEdges& edges,
                                             bool turned) {
  std::vector<std::vector<Scalar<T>>> packed;
  for (int e = 0; e < edges.count; ++e) packed.push_back(pack<T>(args, edges.weights[e], turned));
  return packed;
}

}  // namespace

void depthwise_forward(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                       int64_t begin, int64_t end) {
  with_type_and_kernel(args, [&](auto type, auto kernel) {
    using T = decltype(type);
    Source<T> source(args, x);
    const auto packed = pack_all<T>(args, edges, false);
    for (int64_t n = begin; n < end; ++n) {
      const Frame<T>& frame = source.image(n);
      for (int e = 0; e < edges.count; ++e) {
        T* const to = image_of<T>(args, edges, e, n);
        convolve<T, kernel.value>(frame, packed[e].data(), args.stride, args.dilation,
                                  args.out_height(), args.out_width(),
                                  [&](int64_t pixel, int64_t c, Vector<T> sum) {
                                    write(to + pixel * edges.pitch + c, args.channels - c, sum);
                                  });
      }
    }
  });
}

void depthwise_backward_map(const DepthwiseArgs& args, const void* x, const DepthwiseEdges& edges,
                            void* grad_map, int64_t begin, int64_t end) {
  with_type_and_kernel(args, [&](auto type, auto kernel) {
    using T = decltype(type);
    using V = Vector<T>;
    const int64_t p = args.padding();
    Frame<T> frame(args.out_height(), args.out_width(), args.channels, p, args.stride,
                   args.height + 2 * p, args.width + 2 * p);
    const auto packed = pack_all<T>(args, edges, true);
    const int64_t lanes = frame.lanes;
    const int64_t size = args.height * args.width;
    std::vector<Scalar<T>> sums(static_cast<size_t>(edges.count > 1 ? size * lanes : 0));
    const auto add_edge = [&](int e, const auto& emit) {
      convolve<T, kernel.value>(frame, packed[e].data(), 1, args.dilation, args.height, args.width,
                                emit);
    };
    std::vector<Rectifier<T>> rectifier;
    if (args.mean != nullptr) rectifier.emplace_back(args);
    for (int64_t n = begin; n < end; ++n) {
      T* const to = static_cast<T*>(grad_map) + n * size * args.channels;
      const auto finish = [&](int64_t pixel, int64_t c, V sum) {
        write(to + pixel * args.channels + c, args.channels - c, sum);
      };
      for (int e = 0; e < edges.count; ++e) {
        frame.fill(image_of<T>(args, edges, e, n), edges.pitch);
        const auto add = [&](const auto& emit) {
          if (e == 0) {
            add_edge(e, emit);
          } else {
            add_edge(e, [&](int64_t pixel, int64_t c, V sum) {
              emit(pixel, c, load(sums.data() + pixel * lanes + c) + sum);
            });
          }
        };
        if (e + 1 < edges.count) {
          add([&](int64_t pixel, int64_t c, V sum) {
            store(sums.data() + pixel * lanes + c, sum);
          });
        } else if (rectifier.empty()) {
          add(finish);
        } else {
          const T* const from = static_cast<const T*>(x) + n * size * args.channels;
          add([&](int64_t pixel, int64_t c, V sum) {
            const V u = rectifier[0](read(from + pixel * args.channels + c, args.channels - c), c);
            finish(pixel, c, gated(sum, u));
          });
        }
      }
    }
  });
}

void depthwise_backward_weight(const DepthwiseArgs& args, const void* x,
                               const DepthwiseEdges& edges, double* grad_weights, int64_t begin,
                               int64_t end) {
  const int64_t each = args.channels * args.taps();
  std::fill(grad_weights, grad_weights + edges.count * each, 0.0);
  with_type_and_kernel(args, [&](auto type, auto kernel) {
    using T = decltype(type);
    Source<T> source(args, x);
    for (int64_t n = begin; n < end; ++n) {
      const Frame<T>& frame = source.image(n);
      for (int e = 0; e < edges.count; ++e) {
        correlate<T, kernel.value>(frame, image_of<T>(args, edges, e, n), edges.pitch, args.stride,
                                   args.dilation, grad_weights + e * each, args.out_height(),
                                   args.out_width());
      }
    }
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
