"""A depthwise convolution of a rectified normalisation, which is made once more in backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from darts.devices import parallel
from darts.networks.normalization import batch_norm
from snsoftmax.depthwise import convolved, depthwise, gradients

_ops = torch.ops.snsoftmax
Running = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Running mean and variance, one tensor each, or none where they are not tracked."""


def _rectified(
    y: Tensor, running: Running, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """max(batchnorm(y), 0), then the weight 1, mean and 1 / deviation that were used for it."""
    one = y.new_ones(1, dtype=torch.promote_types(y.dtype, torch.float32))
    normalized, mean, rstd = _ops.mixture_forward([y], [], one, *running, training, momentum, eps)
    return normalized.relu_(), one, mean, rstd


class _NormalizedDepthwise(torch.autograd.Function):
    """Keeps ``y`` alone: its rectified normalisation is made once more in the backward pass."""

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
        ctx.normalization = ([], []) if training else running, training, 0.0, eps
        ctx.save_for_backward(y, weight)
        return convolved(_rectified(y, running, training, momentum, eps)[0], weight, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, weight = ctx.saved_tensors
        running, training, momentum, eps = ctx.normalization
        nothing = None, None, None, None
        if torch.is_grad_enabled():
            inputs = y.view_as(y), weight.view_as(weight)  # y may be computed from the weight
            means, variances = (s[0] if s else None for s in running)
            normalized = F.batch_norm(inputs[0], means, variances, None, None, training, 0.0, eps)
            z = depthwise(normalized.relu(), inputs[1], 1, 1)
            wanted = [i for i, needs in zip(inputs, ctx.needs_input_grad, strict=False) if needs]
            found = iter(torch.autograd.grad(z, wanted, grad, create_graph=True))
            return *(next(found) if n else None for n in ctx.needs_input_grad[:2]), *nothing
        rectified, one, mean, rstd = _rectified(y, running, training, momentum, eps)
        needs = ctx.needs_input_grad[:2]
        through, grad_weight = gradients(grad, rectified, weight, 1, 1, needs)
        if through is None:
            return None, grad_weight, *nothing
        through = torch.ops.aten.threshold_backward(through, rectified, 0)
        # y lies as its convolution left it, which need not be channels_last.
        grad_map = torch.empty_like(y, memory_format=torch.channels_last)
        _ops.mixture_backward(
            through, [y], [], one, mean, rstd, [grad_map], [], [], [], False, training
        )
        return grad_map, grad_weight, *nothing


def normalized_depthwise(
    y: Tensor, weight: Tensor, running: Running, training: bool, momentum: float, eps: float
) -> Tensor:
    """``depthwise(relu(batch_norm(y)), weight, 1, 1)``, keeping less for the backward pass.

    ``running``: statistics that are updated if ``training`` and used if not.
    """
    if training and parallel.world() > 1:
        mean, var = (s[0] if s else None for s in running)
        return depthwise(batch_norm(y, mean, var, training).relu(), weight, 1, 1)
    z: Tensor = _NormalizedDepthwise.apply(y, weight, running, training, momentum, eps)
    return z
