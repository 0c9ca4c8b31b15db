"""What every operation that leaves a node starts from: the map itself, its ReLU, its 3x3 average."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import snsoftmax  # noqa: F401  (registers the operators)

_ops = torch.ops.snsoftmax


class _Leave(torch.autograd.Function):
    """One pass each way; the three gradients are added as they are made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rectify: bool, average: bool) -> tuple[Tensor, ...]:
        rectified, averaged = _ops.rectify_average(x, rectify, average)
        ctx.save_for_backward(rectified if rectify else None)
        ctx.set_materialize_grads(False)
        return x.view_as(x), rectified, averaged

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        (rectified,) = ctx.saved_tensors
        if all(g is None for g in grads):
            return None, None, None
        if not torch.is_grad_enabled():
            return _ops.rectify_average_backward(rectified, *grads), None, None
        identity, through_relu, through_average = grads
        terms = [] if identity is None else [identity]
        if through_relu is not None:
            terms.append(through_relu * (rectified > 0))
        if through_average is not None:
            terms.append(_average_transposed(through_average))
        return sum(terms[1:], terms[0]), None, None


def _average_transposed(grad: Tensor) -> Tensor:
    """The transpose of the 3x3 average, which is the 3x3 sum of grad / count."""
    ones = torch.ones_like(grad[:1, :1])
    count = F.avg_pool2d(ones, 3, 1, 1, divisor_override=1)
    return F.avg_pool2d(grad / count, 3, 1, 1, divisor_override=1)


def leave(x: Tensor, rectify: bool, average: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``x``, ReLU(x) if ``rectify`` and the 3x3 average of stride 1 if ``average``, else None.

    The average excludes padding from its count.
    """
    if not (rectify or average):
        return x, None, None
    identity, rectified, averaged = _Leave.apply(x, rectify, average)
    return identity, rectified if rectify else None, averaged if average else None
