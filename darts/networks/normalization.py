"""Batch normalisation by the statistics of the whole batch, be it shared out over processes.

On a CPU its passes are those of the supernet's mixture, which is a batch normalisation where it
mixes one map; elsewhere it is PyTorch's, if there is one process. With several, each takes its
statistics in one pass of the mixture's, and their average over the processes enters the second;
likewise the two sums that the gradient needs. Every process holds the same number of images.
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
        alone = parallel.world() == 1
        usual = self.momentum == MOMENTUM and self.eps == EPS
        if not training or (alone and not (usual and _fits(input))):
            return super().forward(input)
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if alone:
            running = _running(self.running_mean, self.running_var)
            z: Tensor = _Normalization.apply(input, self.weight, self.bias, running)
            return z
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
    if training and parallel.world() > 1:
        y: Tensor = _BatchNorm.apply(x, _running(mean, var))
        return y
    if training and _fits(x):
        z: Tensor = _Normalization.apply(x, None, None, _running(mean, var))
        return z
    return F.batch_norm(x, mean, var, None, None, training, MOMENTUM, EPS)


Running = tuple[list[Tensor], list[Tensor]]
"""Running means and variances of one map, or none where they are not tracked."""


def _running(mean: Tensor | None, var: Tensor | None) -> Running:
    return ([], []) if mean is None or var is None else ([mean], [var])


def _fits(x: Tensor) -> bool:
    """Do the mixture's kernels for the CPU take ``x`` as it is?"""
    return (
        x.device.type == "cpu"
        and x.dim() == 4
        and x.dtype in (torch.float32, torch.float64, torch.bfloat16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > x.shape[1]  # else PyTorch says what is wrong
        and not torch.compiler.is_compiling()
    )


class _Normalization(torch.autograd.Function):
    """In training, with γ and β or without, by the batch of one process."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running
    ) -> Tensor:
        mean, rstd = _ops.mixture_statistics([x], *running, MOMENTUM, EPS)
        ctx.save_for_backward(x, mean, rstd, weight)
        out: Tensor = F.batch_norm(x, mean[0], rstd[0] ** -2, weight, bias, False, 0.0, 0.0)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Aliases, since x may be computed from γ; β is added, and in no other derivative.
            x = x.view_as(x)
            weight = None if weight is None else weight.view_as(weight)
            y = F.batch_norm(x, None, None, weight, None, True, MOMENTUM, EPS)
            needs = ctx.needs_input_grad
            wanted = [i for i, needed in zip((x, weight), needs[:2], strict=True) if needed]
            found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
            both = [next(found) if needed else None for needed in needs[:2]]
            return *both, grad.sum((0, 2, 3)) if needs[2] else None, None
        sums, _ = _ops.mixture_sums(grad, [x], [], mean, rstd, False)
        of_affine: list[Tensor | None] = [None, None]
        if weight is not None:
            of_bias, products = sums
            of_affine = [(products * rstd[0]).to(weight.dtype), of_bias.to(weight.dtype)]
            # With G and S for the sums, M values a channel, the gradient of x is
            # γ rstd (g - G/M - (x - mean) rstd² S/M): the mixture's of γ rstd and S/γ².
            square = weight.double().square()
            sums = torch.stack([of_bias, torch.where(square > 0, products / square, 0.0)])
            rstd = rstd * weight
        if not ctx.needs_input_grad[0]:
            return None, *of_affine, None
        grad_x = torch.empty_like(x, memory_format=torch.channels_last)
        one = mean.new_ones(1)
        _ops.mixture_backward(
            grad, [x], [], one, mean, rstd, [grad_x], [False], [], [], False, True, sums
        )
        return grad_x, *of_affine, None


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
