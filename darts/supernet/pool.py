"""3x3 max pooling that keeps no indices."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window = [3, 3], [stride, stride], [1, 1], [1, 1], False
        return F.max_pool2d(x, 3, stride, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            _, indices = _aten.max_pool2d_with_indices(x, *ctx.window)
        grad_map: Tensor = _aten.max_pool2d_with_indices_backward(grad, x, *ctx.window, indices)
        return grad_map, None


def max_pool(x: Tensor, stride: int) -> Tensor:
    """The 3x3 maximum of ``x``, [N, C, H, W], at ``stride``; padding never counts.

    Indices are as large as two maps of float32. They are found once more in the backward pass.
    """
    y: Tensor = _MaxPool.apply(x, stride)
    return y
