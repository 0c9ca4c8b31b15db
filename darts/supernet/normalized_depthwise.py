"""Depthwise convolutions that read their map through batch normalisation and ReLU."""

from __future__ import annotations

import math
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
"""Running means and variances of the map's channels, in as many tensors as they lie in, one behind
the other; none where they are not tracked.
"""


def _joined(parts: Sequence[Tensor]) -> Tensor | None:
    """The parts as one, which is the one part itself where there are not more."""
    return None if not parts else parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _normalization(
    y: Tensor, running: Running, training: bool, momentum: float, eps: float
) -> Normalization:
    """What batch normalisation takes; the running statistics are moved in training."""
    if training:
        # Maps of one width, as the operator takes them, with the statistics of each.
        width = math.gcd(*(len(part) for part in running[0])) or y.shape[1]
        live = ([p for part in of for p in part.split(width)] for of in running)
        mean, rstd = _ops.mixture_statistics(y.split(width, 1), *live, momentum, eps)
        return Normalization(mean.view(-1), rstd.view(-1))
    mean, var = (_joined(of) for of in running)
    assert mean is not None
    assert var is not None
    return Normalization(mean, (var + eps).rsqrt())


def _windows(weights: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """No dilation, and one map for all."""
    return [1] * len(weights), [len(weights)]


@cache
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(1, dtype=dtype, device=device)


class _NormalizedDepthwise(torch.autograd.Function):
    """Keeps ``y`` alone: its rectified normalisation is written neither here nor in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        running: Running,
        training: bool,
        momentum: float,
        eps: float,
        y: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        normalization = _normalization(y, running, training, momentum, eps)
        ctx.normalization = ([], []) if training else running, training, eps
        ctx.save_for_backward(*normalization, y, *weights)
        return convolved(y, weights, 1, *_windows(weights), normalization)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean, rstd, *inputs = ctx.saved_tensors
        running, training, eps = ctx.normalization
        needs = ctx.needs_input_grad[4:]
        nothing = None, None, None, None
        if torch.is_grad_enabled():
            inputs = [i.view_as(i) for i in inputs]  # y may be computed from a weight
            y, *weights = inputs
            means, variances = (_joined(of) for of in running)
            normalized = F.batch_norm(y, means, variances, None, None, training, 0.0, eps)
            (z,) = depthwise(normalized.relu(), weights, 1, *_windows(weights))
            wanted = [i for i, needed in zip(inputs, needs, strict=True) if needed]
            found = iter(torch.autograd.grad(z, wanted, grad, create_graph=True))
            return *nothing, *(next(found) if needed else None for needed in needs)
        y, *weights = inputs
        normalization = Normalization(mean, rstd)
        dilations, _ = _windows(weights)
        through, *grad_weights = gradients([grad], y, weights, 1, dilations, needs, normalization)
        if through is None:
            return *nothing, None, *grad_weights
        # y lies as its convolution left it, which need not be channels_last.
        grad_map = torch.empty_like(y, memory_format=torch.channels_last)
        # A mixture of one map with weight 1 is its normalisation.
        one, mean, rstd = _one(mean.dtype, mean.device), mean[None], rstd[None]
        _ops.mixture_backward(
            through, [y], [], one, mean, rstd, [grad_map], [], [], [], False, training
        )
        return *nothing, grad_map, *grad_weights


def normalized_depthwise(
    y: Tensor,
    weights: Sequence[Tensor],
    running: Running,
    training: bool,
    momentum: float,
    eps: float,
    untried: bool = False,
) -> Tensor:
    """`depthwise` of ``relu(batch_norm(y))``, keeping less for the backward pass.

    Without dilation, at stride 1, the results of all ``weights`` in one map. ``running``:
    statistics that are updated if ``training`` and used if not. ``untried``: as `depthwise` has it.
    """
    shared_out = training and parallel.world() > 1
    if shared_out or any(kernels_for(y, w, 1, 1, untried) == "library" for w in weights):
        mean, var = (_joined(of) for of in running)
        normalized = batch_norm(y, mean, var, training)
        for parts, moved in zip(running, (mean, var), strict=True):
            if training and moved is not None and len(parts) > 1:  # copies were updated
                for part, now in zip(parts, moved.split([len(p) for p in parts]), strict=True):
                    part.copy_(now)
        return depthwise(normalized.relu(), weights, 1, *_windows(weights), untried)[0]
    z: Tensor = _NormalizedDepthwise.apply(running, training, momentum, eps, y, *weights)
    return z
