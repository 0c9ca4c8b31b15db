// An image is copied into a frame of zeros, in opmath, so that the loops over pixels know no
// borders. A register holds adjacent channels; the taps of a kernel stay in registers. The
// gradient of the map is the convolution of the gradient, spread by the stride, with the
// kernel turned around.
#include "depthwise/depthwise.h"

#include <algorithm>
#include <vector>

#include "common/capability.h"
#include "common/vec.h"

namespace snsoftmax {

SNSOFTMAX_DECLARE_PER_CAPABILITY(void depthwise_forward(const DepthwiseArgs&, const void*,
                                                        const void*, void*, int64_t, int64_t);
                                 void depthwise_backward_map(const DepthwiseArgs&, const void*,
                                                             const void*, void*, int64_t, int64_t);
                                 void depthwise_backward_weight(const DepthwiseArgs&, const void*,
                                                                const void*, double*, int64_t,
                                                                int64_t))

namespace SNSOFTMAX_CAPABILITY {
namespace {

template <class T>
int64_t whole_registers(int64_t channels) {
  return (channels + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

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

  void fill(const T* image) {
    for (int64_t h = 0; h < height; ++h) {
      for (int64_t w = 0; w < width; ++w) {
        S* const to = data.data() + (padding + step * h) * stride + (padding + step * w) * lanes;
        const T* const from = image + (h * width + w) * channels;
        int64_t c = 0;
        for (; c + kLanes<T> <= channels; c += kLanes<T>) store(to + c, load(from + c));
        if (c < channels) store(to + c, load_first(from + c, channels - c, S(0)));
      }
    }
  }
};

/// Kernels as [taps][channels in whole registers], turned around where `turned`.
template <class T>
std::vector<typename Op<T>::scalar> pack(const DepthwiseArgs& args, const void* weight,
                                         bool turned) {
  using S = typename Op<T>::scalar;
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

/// out[h, w] = sum of taps of the frame from (stride h, stride w) on.
template <class T, int K>
void convolve(const Frame<T>& frame, const typename Op<T>::scalar* packed, int64_t stride,
              int64_t dilation, T* out, int64_t height, int64_t width) {
  using V = typename Op<T>::vector;
  const int64_t channels = frame.channels;
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    V taps[K][K];
    for (int i = 0; i < K; ++i) {
      for (int j = 0; j < K; ++j) taps[i][j] = load(packed + (i * K + j) * frame.lanes + c);
    }
    const int64_t left = channels - c;
    for (int64_t h = 0; h < height; ++h) {
      const auto* const rows = frame.data.data() + stride * h * frame.stride + c;
      T* to = out + h * width * channels + c;
      for (int64_t w = 0; w < width; ++w, to += channels) {
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
        if (left >= kLanes<T>) {
          store(to, total);
        } else {
          store_first(to, left, total);
        }
      }
    }
  }
}

/// sums[tap] += sum over pixels of grad times the frame's tap.
template <class T, int K>
void correlate(const Frame<T>& frame, const T* grad, int64_t stride, int64_t dilation, double* sums,
               int64_t height, int64_t width) {
  using V = typename Op<T>::vector;
  using S = typename Op<T>::scalar;
  const int64_t channels = frame.channels;
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    V taps[K][K] = {};
    const int64_t left = channels - c;
    for (int64_t h = 0; h < height; ++h) {
      const auto* const rows = frame.data.data() + stride * h * frame.stride + c;
      const T* from = grad + h * width * channels + c;
      for (int64_t w = 0; w < width; ++w, from += channels) {
        const V g = left >= kLanes<T> ? load(from) : load_first(from, left, S(0));
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

/// The frame that x is convolved in.
template <class T>
Frame<T> frame_of_map(const DepthwiseArgs& args) {
  const int64_t p = args.padding();
  return {args.height, args.width, args.channels, p, 1, args.height + 2 * p, args.width + 2 * p};
}

}  // namespace

void depthwise_forward(const DepthwiseArgs& args, const void* x, const void* weight, void* y,
                       int64_t begin, int64_t end) {
  with_type_and_kernel(args, [&](auto type, auto kernel) {
    using T = decltype(type);
    Frame<T> frame = frame_of_map<T>(args);
    const auto packed = pack<T>(args, weight, false);
    const int64_t in = args.height * args.width * args.channels;
    const int64_t out = args.out_height() * args.out_width() * args.channels;
    for (int64_t n = begin; n < end; ++n) {
      frame.fill(static_cast<const T*>(x) + n * in);
      convolve<T, kernel.value>(frame, packed.data(), args.stride, args.dilation,
                                static_cast<T*>(y) + n * out, args.out_height(), args.out_width());
    }
  });
}

void depthwise_backward_map(const DepthwiseArgs& args, const void* grad, const void* weight,
                            void* grad_map, int64_t begin, int64_t end) {
  with_type_and_kernel(args, [&](auto type, auto kernel) {
    using T = decltype(type);
    const int64_t p = args.padding();
    Frame<T> frame(args.out_height(), args.out_width(), args.channels, p, args.stride,
                   args.height + 2 * p, args.width + 2 * p);
    const auto packed = pack<T>(args, weight, true);
    const int64_t in = args.height * args.width * args.channels;
    const int64_t out = args.out_height() * args.out_width() * args.channels;
    for (int64_t n = begin; n < end; ++n) {
      frame.fill(static_cast<const T*>(grad) + n * out);
      convolve<T, kernel.value>(frame, packed.data(), 1, args.dilation,
                                static_cast<T*>(grad_map) + n * in, args.height, args.width);
    }
  });
}

void depthwise_backward_weight(const DepthwiseArgs& args, const void* grad, const void* x,
                               double* grad_weight, int64_t begin, int64_t end) {
  std::fill(grad_weight, grad_weight + args.channels * args.kernel * args.kernel, 0.0);
  with_type_and_kernel(args, [&](auto type, auto kernel) {
    using T = decltype(type);
    Frame<T> frame = frame_of_map<T>(args);
    const int64_t in = args.height * args.width * args.channels;
    const int64_t out = args.out_height() * args.out_width() * args.channels;
    for (int64_t n = begin; n < end; ++n) {
      frame.fill(static_cast<const T*>(x) + n * in);
      correlate<T, kernel.value>(frame, static_cast<const T*>(grad) + n * out, args.stride,
                                 args.dilation, grad_weight, args.out_height(), args.out_width());
    }
  });
}

}  // namespace SNSOFTMAX_CAPABILITY

#ifdef SNSOFTMAX_DEFINE_DISPATCH
void depthwise_forward_cpu(const DepthwiseArgs& args, const void* x, const void* weight, void* y,
                           int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(depthwise_forward, args, x, weight, y, begin, end);
}

void depthwise_backward_map_cpu(const DepthwiseArgs& args, const void* grad, const void* weight,
                                void* grad_map, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(depthwise_backward_map, args, grad, weight, grad_map, begin, end);
}

void depthwise_backward_weight_cpu(const DepthwiseArgs& args, const void* grad, const void* x,
                                   double* grad_weight, int64_t begin, int64_t end) {
  SNSOFTMAX_DISPATCH(depthwise_backward_weight, args, grad, x, grad_weight, begin, end);
}
#endif

}  // namespace snsoftmax
