"""Depthwise convolution, on the CPU by a kernel of our own.

oneDNN has no fast path for the weight gradient of 5x5 and of dilated depthwise convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import snsoftmax  # noqa: F401  (registers the operators)
from darts.devices import parallel
from darts.networks.normalization import batch_norm

_ops = torch.ops.snsoftmax
Gradients = tuple[Tensor | None, Tensor | None]
Running = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Running mean and variance, one tensor each, or none where they are not tracked."""


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    if x.device.type != "cpu":
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, None, stride, padding, dilation, groups=len(weight))
    y = _ops.depthwise(x, weight, stride, dilation)
    assert isinstance(y, Tensor)
    return y


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int, needs: Sequence[bool]
) -> Gradients:
    """Of the map and the weight; functions that can be differentiated again under create_graph."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        padding = dilation * (weight.shape[-1] // 2)
        grad_map, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight.to(x.dtype),
            None,
            [stride] * 2,
            [padding] * 2,
            [dilation] * 2,
            False,
            [0, 0],
            len(weight),
            [*needs, False],
        )
        return grad_map, grad_weight.to(weight.dtype) if needs[1] else None
    height, width = x.shape[2:]
    grad_map = grad_weight = None
    if needs[0]:
        grad_map = _ops.depthwise_backward_map(grad, weight, height, width, stride, dilation)
    if needs[1]:
        grad_weight = _ops.depthwise_backward_weight(grad, x, weight.shape[-1], stride, dilation)
    return grad_map, grad_weight


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        return *_gradients(grad, x, weight, ctx.stride, ctx.dilation, needs), None, None


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve each channel of ``x``, [N, C, H, W], by its own kernel of ``weight``, [C, 1, k, k].

    Padded so that stride 1 keeps the size. k is 3 or 5. Under autocast the weight and its gradient
    stay float32.
    """
    if x.device.type != "cpu":
        return _convolve(x, weight, stride, dilation)
    y: Tensor = _Depthwise.apply(x, weight, stride, dilation)
    return y


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
        return _convolve(_rectified(y, running, training, momentum, eps)[0], weight, 1, 1)

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
        through, grad_weight = _gradients(grad, rectified, weight, 1, 1, needs)
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
