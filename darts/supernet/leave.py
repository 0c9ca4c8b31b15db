"""What operations that leave a node start from: its map, the ReLU and the 3x3 average of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import snsoftmax  # noqa: F401  (registers the operators)

_ops = torch.ops.snsoftmax


class Departure(NamedTuple):
    """A node's map as its outgoing operations read it.

    ``rectified``: the ReLU, one alias for each reader, so that their gradients arrive apart and
    are added in the pass that applies the ReLU's. ``averaged``: the 3x3 average of stride 1, or
    None.
    """

    map: Tensor
    rectified: tuple[Tensor, ...]
    averaged: Tensor | None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, readers: int, average: bool) -> tuple[Tensor, ...]:
        rectified, averaged = _ops.rectify_average(x, readers > 0, average)
        ctx.save_for_backward(rectified if readers else None)
        ctx.set_materialize_grads(False)
        aliases = (rectified.view_as(rectified) for _ in range(readers))
        return x.view_as(x), averaged, *aliases

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        (rectified,) = ctx.saved_tensors
        identity, through_average, *others = grads
        through_relu = [g for g in others if g is not None]
        if identity is None and through_average is None and not through_relu:
            return None, None, None
        if not torch.is_grad_enabled():
            grad = _ops.rectify_average_backward(rectified, identity, through_relu, through_average)
            return grad, None, None
        terms = [] if identity is None else [identity]
        terms += [g * (rectified > 0) for g in through_relu]
        if through_average is not None:
            terms.append(_average_transposed(through_average))
        return sum(terms[1:], terms[0]), None, None


def _average_transposed(grad: Tensor) -> Tensor:
    """The transpose of the 3x3 average, which is the 3x3 sum of grad / count."""
    ones = torch.ones_like(grad[:1, :1])
    count = F.avg_pool2d(ones, 3, 1, 1, divisor_override=1)
    return F.avg_pool2d(grad / count, 3, 1, 1, divisor_override=1)


def leave(x: Tensor, readers: int, average: bool) -> Departure:
    """``x`` with its ReLU for ``readers`` operations and its average if ``average``.

    One pass each way. The average excludes padding from its count.
    """
    if readers == 0 and not average:
        return Departure(x, (), None)
    map, averaged, *rectified = _Leave.apply(x, readers, average)
    return Departure(map, tuple(rectified), averaged if average else None)
