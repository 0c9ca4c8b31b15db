// The mixture's passes over the CPU's threads.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "mixture/mixture.h"

namespace snsoftmax {

/// Mean and rstd of the maps, but for those whose `moments` are given.
void statistics_cpu(const MixtureArgs& args, at::TensorList moments, const MixtureRunning& running,
                    double momentum, double eps, void* mean, void* rstd);

void forward_cpu(const MixtureArgs& args, const void* weights, const MixtureRunning& running,
                 bool training, double momentum, double eps, void* mean, void* rstd, MixtureMap out,
                 MixtureMap rectified, at::TensorList moments);

/// G, S_k and X_l, [1 + K + L, channels]. `grad_weights` is null where it is not wanted.
std::vector<double> sums_cpu(const MixtureArgs& args, const void* mean, const void* rstd,
                             MixtureMap grad, void* grad_weights);

/// `given` is null or G and S_k; `grad_weights` and `lines` are null where they are not wanted.
void backward_cpu(const MixtureArgs& args, const void* weights, const void* mean, const void* rstd,
                  MixtureMap grad, const MixtureGradients& gradients, const double* given,
                  void* grad_weights, bool training, void* lines);

}  // namespace snsoftmax
