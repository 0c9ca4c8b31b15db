"""A depthwise convolution that reads its map through batch normalisation and ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from darts.devices import parallel
from darts.networks.normalization import batch_norm
from snsoftmax.depthwise import Normalization, convolved, depthwise, gradients, kernels_for

_ops = torch.ops.snsoftmax
Running = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Running mean and variance, one tensor each, or none where they are not tracked."""


def _normalization(
    y: Tensor, running: Running, training: bool, momentum: float, eps: float
) -> Normalization:
    """What batch normalisation takes; the running statistics are moved in training."""
    if training:
        mean, rstd = _ops.mixture_statistics([y], *running, momentum, eps)
        return Normalization(mean[0], rstd[0])
    (mean,), (var,) = running
    return Normalization(mean, (var + eps).rsqrt())


@cache
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(1, dtype=dtype, device=device)


class _NormalizedDepthwise(torch.autograd.Function):
    """Keeps ``y`` alone: its rectified normalisation is written neither here nor in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        running: Running,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        normalization = _normalization(y, running, training, momentum, eps)
        ctx.normalization = ([], []) if training else running, training, eps
        ctx.save_for_backward(y, weight, *normalization)
        return convolved(y, [weight], 1, 1, normalization)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, *statistics = ctx.saved_tensors
        running, training, eps = ctx.normalization
        needs = ctx.needs_input_grad[:2]
        nothing = None, None, None, None
        if torch.is_grad_enabled():
            inputs = y.view_as(y), weight.view_as(weight)  # y may be computed from the weight
            means, variances = (s[0] if s else None for s in running)
            normalized = F.batch_norm(inputs[0], means, variances, None, None, training, 0.0, eps)
            (z,) = depthwise(normalized.relu(), [inputs[1]], 1, 1)
            wanted = [i for i, needed in zip(inputs, needs, strict=True) if needed]
            found = iter(torch.autograd.grad(z, wanted, grad, create_graph=True))
            return *(next(found) if needed else None for needed in needs), *nothing
        mean, rstd = statistics
        through, grad_weight = gradients(
            [grad], y, [weight], 1, 1, needs, Normalization(mean, rstd)
        )
        if through is None:
            return None, grad_weight, *nothing
        # y lies as its convolution left it, which need not be channels_last.
        grad_map = torch.empty_like(y, memory_format=torch.channels_last)
        # A mixture of one map with weight 1 is its normalisation.
        one, mean, rstd = _one(mean.dtype, mean.device), mean[None], rstd[None]
        _ops.mixture_backward(
            through, [y], [], one, mean, rstd, [grad_map], [], [], [], False, training
        )
        return grad_map, grad_weight, *nothing


def normalized_depthwise(
    y: Tensor,
    weight: Tensor,
    running: Running,
    training: bool,
    momentum: float,
    eps: float,
    untried: bool = False,
) -> Tensor:
    """``depthwise(relu(batch_norm(y)), [weight], 1, 1)``, keeping less for the backward pass.

    ``running``: statistics that are updated if ``training`` and used if not. ``untried``: as
    `depthwise` has it.
    """
    shared_out = training and parallel.world() > 1
    if shared_out or kernels_for(y, weight, 1, 1, untried) == "library":
        mean, var = (s[0] if s else None for s in running)
        return depthwise(batch_norm(y, mean, var, training).relu(), [weight], 1, 1)[0]
    z: Tensor = _NormalizedDepthwise.apply(y, weight, running, training, momentum, eps)
    return z
