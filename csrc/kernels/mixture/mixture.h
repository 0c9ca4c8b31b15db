// The supernet's mixture of a node's incoming operations, kernel interface: raw pointers and sizes,
// no PyTorch.
//
//   out = sum_k w_k (y_k - mean_k) rstd_k  +  sum_l w_l x_l
//
// A map is seen as [pixels, channels]: channels are adjacent, pixels `stride` elements apart, which
// is a channels_last tensor or a slice of its channels. mean_k and rstd_k are the batch statistics
// of y_k's channels, or the running ones in evaluation.
//
// Two passes each way. Forward: statistics, combine. Backward, with g the gradient of out: `reduce`
// takes the sums G = sum g, S_k = sum g (y_k - mean_k), X_l = sum g x_l over pixels, which give
//
//   dw_k = sum_c rstd_k S_k        dw_l = sum_c X_l
//   dy_k = w_k rstd_k (g - G / M - (y_k - mean_k) rstd_k^2 S_k / M)     (evaluation: w_k rstd_k g)
//   dx_l = w_l g
//
// and `write` writes all dy_k and dx_l. Where the batch is shared out over processes, the
// statistics and the sums are taken apart from the passes that use them, to be averaged in between;
// M is then still this process's number of pixels. Arithmetic is float, or double for double maps
// ("opmath"); sums over more than a block of pixels are double. On the CPU the caller splits the
// pixels into chunks and merges the chunks' sums in order, so that a result depends on the split
// alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace snsoftmax {

/// The most maps, normalised and plain together, that one call takes.
constexpr int kMixtureMaps = 64;

struct MixtureMap {
  void* data = nullptr;
  int64_t stride = 0;  ///< elements from one pixel to the next
};

struct MixtureArgs {
  DType dtype = DType::kFloat32;  ///< of every map: float32, float64 or bfloat16
  int64_t pixels = 0;
  int64_t channels = 0;
  int normalized = 0;             ///< K
  int plain = 0;                  ///< L
  MixtureMap maps[kMixtureMaps];  ///< the K normalised ones, then the L plain ones; read only
};

/// Where the running statistics of map k are, opmath [channels]; null where they are not tracked.
struct MixtureRunning {
  void* mean[kMixtureMaps] = {};
  void* var[kMixtureMaps] = {};
};

/// What is known of a normalised map already, [2, channels]: means and sums of squared deviations;
/// null where nothing is. A negative sum says that the map was left out: rstd is 0 then and the
/// running statistics stay.
struct MixtureMoments {
  const double* of[kMixtureMaps] = {};
};

struct MixtureGradients {
  MixtureMap maps[kMixtureMaps];  ///< as MixtureArgs::maps; data is null where none is wanted
  uint64_t accumulate = 0;        ///< bit i: add to maps[i] instead of overwriting it
};

// ---- CPU: pixels [begin, end) of a chunk ----

/// Adds the pixels to partial[2][K][channels], the mean and the sum of squared deviations of
/// `before` pixels.
void mixture_statistics_cpu(const MixtureArgs& args, double* partial, int64_t before, int64_t begin,
                            int64_t end);

/// Merges the partials of `chunks` chunks, chunk i being pixels [bounds[i], bounds[i + 1]), into
/// opmath mean and rstd [K, channels], and moves the running statistics by `momentum`.
void mixture_merge_statistics_cpu(const MixtureArgs& args, const double* partials,
                                  const int64_t* bounds, int64_t chunks, double eps,
                                  double momentum, const MixtureRunning& running, void* mean,
                                  void* rstd);

/// Evaluation: mean and rstd from the running statistics.
void mixture_running_statistics_cpu(const MixtureArgs& args, const MixtureRunning& running,
                                    double eps, void* mean, void* rstd);

/// `rectified.data` may be null; else max(out, 0) is written there too.
void mixture_combine_cpu(const MixtureArgs& args, const void* weights, const void* mean,
                         const void* rstd, MixtureMap out, MixtureMap rectified, int64_t begin,
                         int64_t end);

/// partial[1 + K + L][channels] = the chunk's G, S_k and X_l; X_l only where `plain_too`.
void mixture_reduce_cpu(const MixtureArgs& args, const void* mean, MixtureMap grad, bool plain_too,
                        double* partial, int64_t begin, int64_t end);

/// Merges the partials of `chunks` chunks into the first. Where `grad_weights` (opmath [K + L]) is
/// not null it receives dw.
void mixture_merge_sums_cpu(const MixtureArgs& args, double* partials, int64_t chunks,
                            const void* rstd, void* grad_weights);

/// lines[K][4][channels], opmath: mean, slope, tilt and shift of every normalised map's gradient
/// slope g + tilt (y - mean) + shift. `sums` is null in evaluation.
void mixture_lines_cpu(const MixtureArgs& args, const void* weights, const void* mean,
                       const void* rstd, const double* sums, void* lines);

/// `weights` are read for plain maps alone, `lines` for normalised ones.
void mixture_write_cpu(const MixtureArgs& args, const void* weights, const void* lines,
                       MixtureMap grad, const MixtureGradients& gradients, int64_t begin,
                       int64_t end);

// ---- CUDA: whole calls, each a fixed number of launches on `stream` (a cudaStream_t). They return
// null, or a message where a launch failed. Sums have a fixed order: same input, same bits. A map
// whose weight is 0 is read for its moments, where they are not known, for the sums by themselves
// and for dw alone. ----

/// Bytes of device scratch that either call needs.
size_t mixture_workspace_cuda(const MixtureArgs& args);

/// In evaluation the running statistics are read, in training they are moved where not null.
/// `out.data` may be null: then only mean and rstd are computed, and `weights` is not read.
const char* mixture_forward_cuda(const MixtureArgs& args, const void* weights,
                                 const MixtureMoments& moments, const MixtureRunning& running,
                                 bool training, double momentum, double eps, void* mean, void* rstd,
                                 MixtureMap out, MixtureMap rectified, void* workspace,
                                 void* stream);

/// The first pass of backward: sums[1 + K][channels] = G, S_k on the device. `grad_weights` is null
/// where it is not wanted.
const char* mixture_sums_cuda(const MixtureArgs& args, const void* mean, const void* rstd,
                              MixtureMap grad, double* sums, void* grad_weights, void* workspace,
                              void* stream);

/// `sums` is null, or what mixture_sums_cuda gave (averaged over processes); then training is meant
/// and `grad_weights` is null. `grad_weights` is null where it is not wanted. The gradients' maps
/// overlap neither each other nor what is read.
const char* mixture_backward_cuda(const MixtureArgs& args, const void* weights, const void* mean,
                                  const void* rstd, MixtureMap grad,
                                  const MixtureGradients& gradients, const double* sums,
                                  void* grad_weights, bool training, void* workspace, void* stream);

}  // namespace snsoftmax
