"""Batch normalisation by the statistics of the whole batch, be it shared out over processes.

With one process this is PyTorch's. With several, each takes its statistics in one pass, and their
average over the processes enters the second; likewise the two sums that the gradient needs. The
passes are those of the supernet's mixture, which is a batch normalisation where it mixes one map.
Every process holds the same number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snsoftmax  # noqa: F401  (registers the operators)
from darts.devices import parallel

_ops = torch.ops.snsoftmax
MOMENTUM, EPS = 0.1, 1e-5
"""Of every batch normalisation."""


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the whole batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        training = self.training or self.running_mean is None
        if not training or parallel.world() == 1:
            return super().forward(input)
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        y = batch_norm(input, self.running_mean, self.running_var, training)
        if not self.affine:
            return y
        weight, bias = (p.to(y.dtype)[:, None, None] for p in (self.weight, self.bias))
        return torch.addcmul(bias, y, weight)


def batch_norm(x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool) -> Tensor:
    """`F.batch_norm` over the whole batch, without affine parameters.

    Args:
        x: [N, C, H, W].
        mean, var: running statistics, [C], moved in training; None if not tracked.
        training: normalise by the batch's statistics.
    """
    if not training or parallel.world() == 1:
        return F.batch_norm(x, mean, var, None, None, training, MOMENTUM, EPS)
    running = ([], []) if mean is None or var is None else ([mean], [var])
    y: Tensor = _BatchNorm.apply(x, running)
    return y


def composed(x: Tensor) -> Tensor:
    """`batch_norm` in training from PyTorch's operators, differentiable as often as one likes."""
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = y - parallel.average(y.mean((0, 2, 3), keepdim=True))
    variance = parallel.average(centred.square().mean((0, 2, 3), keepdim=True))
    return (centred * (variance + EPS).rsqrt()).to(x.dtype)


def mixture_forward(
    normalized: Sequence[Tensor],
    plain: Sequence[Tensor],
    weights: Tensor,
    running: tuple[list[Tensor], list[Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `mixture_forward` in training, over the whole batch."""
    mean, rstd = _ops.mixture_statistics(normalized, [], [])
    means, variances = parallel.gathered(torch.stack([mean, rstd**-2])).unbind(1)
    mean, var = means.mean(0), variances.mean(0) + means.var(0, correction=0)
    if tracked := [k for k, statistic in enumerate(running[0]) if statistic.numel()]:
        count = parallel.world() * normalized[0].numel() / mean.shape[1]
        unbiased = var * (count / (count - 1))
        for old, new in zip(running, (mean, unbiased), strict=True):
            torch._foreach_lerp_([old[k] for k in tracked], [new[k] for k in tracked], MOMENTUM)
    out: tuple[Tensor, Tensor, Tensor] = _ops.mixture_forward(
        normalized, plain, weights, list(mean), list(var), [], False, MOMENTUM, EPS
    )
    return out


def mixture_backward(
    grad: Tensor,
    normalized: Sequence[Tensor],
    plain: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    rstd: Tensor,
    grad_normalized: Sequence[Tensor],
    grad_plain: Sequence[Tensor],
    accumulate_normalized: Sequence[bool],
    accumulate_plain: Sequence[bool],
    needs_weights: bool,
    lines: Tensor | None = None,
) -> Tensor:
    """The operator `mixture_backward` in training, over the whole batch.

    The gradient of the weights, which is returned, is this process's part.
    """
    sums, grad_weights = _ops.mixture_sums(grad, normalized, plain, mean, rstd, needs_weights)
    _ops.mixture_backward(
        grad,
        normalized,
        plain,
        weights,
        mean,
        rstd,
        grad_normalized,
        accumulate_normalized,
        grad_plain,
        accumulate_plain,
        False,
        True,
        parallel.average(sums),
        lines,
    )
    assert isinstance(grad_weights, Tensor)
    return grad_weights


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, running: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        one = x.new_ones(1, dtype=torch.promote_types(x.dtype, torch.float32))
        out, mean, rstd = mixture_forward([x], [], one, running)
        ctx.save_for_backward(x, one, mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        x, one, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():
            alias = x.view_as(x)
            (grad_x,) = torch.autograd.grad(composed(alias), alias, grad, create_graph=True)
            return grad_x, None
        grad_x = torch.empty_like(x, memory_format=torch.channels_last)
        mixture_backward(grad, [x], [], one, mean, rstd, [grad_x], [], [], [], False)
        return grad_x, None
