"""Depthwise convolution, on the CPU by a kernel of our own.

oneDNN has no fast path for the weight gradient of 5x5 and of dilated depthwise convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snsoftmax import _C  # noqa: F401  registers the operators

_ops = torch.ops.snsoftmax
Gradients = tuple[Tensor | None, Tensor | None]


def convolved(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """`depthwise` for an autograd function of one's own: nothing is recorded."""
    if x.device.type != "cpu":
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, None, stride, padding, dilation, groups=len(weight))
    y = _ops.depthwise(x, weight, stride, dilation)
    assert isinstance(y, Tensor)
    return y


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int, needs: Sequence[bool]
) -> Gradients:
    """Of the map and the weight of `convolved`; differentiable again under create_graph."""
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
        return convolved(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        return *gradients(grad, x, weight, ctx.stride, ctx.dilation, needs), None, None


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve each channel of ``x``, [N, C, H, W], by its own kernel of ``weight``, [C, 1, k, k].

    Padded so that stride 1 keeps the size. k is 3 or 5. Under autocast the weight and its gradient
    stay float32.
    """
    if x.device.type != "cpu":
        return convolved(x, weight, stride, dilation)
    y: Tensor = _Depthwise.apply(x, weight, stride, dilation)
    return y
