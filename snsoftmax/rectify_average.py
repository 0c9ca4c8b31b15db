"""The ReLU and the 3x3 average of a map in one pass, and its readers' gradients in another.

y = max(x, 0) and a = average of x over the 3x3 neighbours that exist. The gradient of x is

    Σ g·[x > 0] + Σ_i v_i·g_i + Aᵀ Σ_j u_j·g_j

over the gradients g of y's readers, g_i of x's own and g_j of a's; A is the average. A reader that
adds v·x to something hands over the gradient of its sum and v, so that v·g is never written.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snsoftmax import _C  # noqa: F401  registers the operators

_ops = torch.ops.snsoftmax
_MAPS = torch.float32, torch.float64, torch.bfloat16
# On the CPU wherever the maps are: the operator passes it on as a number, and nothing is launched.
_ONE = torch.ones((), dtype=torch.float64, device="cpu")


class HandedGradients:
    """Gradients of a map's readers in the backward pass under way, each with its weight.

    A node that adds ``weight`` times the map hands its own gradient back, as it is; the map's
    backward pass adds them up. Nobody writes a weighted copy.
    """

    def __init__(self) -> None:
        self._task = -1
        self._handed: list[tuple[Tensor, Tensor]] = []

    def hand(self, gradient: Tensor, weight: Tensor) -> None:
        """Add a reader's gradient and its weight (0-d)."""
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._handed = task, []
        self._handed.append((gradient, weight))

    def take(self, direct: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """All gradients and weights, among them what came by way of autograd."""
        handed, self._handed = self._handed, []
        if torch._C._current_graph_task_id() != self._task:
            handed = []
        if direct is not None:
            handed = [*handed, (direct, _ONE)]
        return [g for g, _ in handed], [w for _, w in handed]


class _RectifyAverage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        readers: int,
        average: bool,
        map_gradients: HandedGradients,
        averaged_gradients: HandedGradients,
    ) -> tuple[Tensor, ...]:
        rectified, averaged = _ops.rectify_average(x, readers > 0, average)
        ctx.save_for_backward(rectified if readers else None)
        ctx.set_materialize_grads(False)
        ctx.handed = map_gradients, averaged_gradients
        aliases = (rectified.view_as(rectified) for _ in range(readers))
        return x.view_as(x), averaged, *aliases

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (rectified,) = ctx.saved_tensors
        identity, through_average, *others = grads
        through_relu = [g for g in others if g is not None]
        map_gradients, averaged_gradients = ctx.handed
        of_map = map_gradients.take(identity)
        of_averaged = averaged_gradients.take(through_average)
        nothing = None, None, None, None
        if not (of_map[0] or of_averaged[0] or through_relu):
            return None, *nothing
        if not torch.is_grad_enabled():
            grad = _ops.rectify_average_backward(rectified, through_relu, *of_map, *of_averaged)
            return grad, *nothing
        terms = [] if identity is None else [identity]
        terms += [g * (rectified > 0) for g in through_relu]
        if through_average is not None:
            terms.append(_average_transposed(through_average))
        return sum(terms[1:], terms[0]), *nothing


def _average_transposed(grad: Tensor) -> Tensor:
    """The transpose of the 3x3 average, which is the 3x3 sum of grad / count."""
    ones = torch.ones_like(grad[:1, :1])
    count = F.avg_pool2d(ones, 3, 1, 1, divisor_override=1)
    return F.avg_pool2d(grad / count, 3, 1, 1, divisor_override=1)


def rectifies(x: Tensor) -> bool:
    """Is `rectify` the fastest way to rectify ``x``, and can it?"""
    return x.device.type == "cpu" and x.dim() == 4 and x.dtype in _MAPS


def rectify(x: Tensor) -> Tensor:
    """max(x, 0) of a map, as `rectify_average` has it."""
    return rectify_average(x, 1, False)[2][0]


def rectify_average(
    x: Tensor,
    readers: int,
    average: bool,
    map_gradients: HandedGradients | None = None,
    averaged_gradients: HandedGradients | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``x``, its 3x3 average and its ReLU for ``readers`` readers, as functions of ``x``.

    Args:
        x: [N, C, H, W]; float32, float64 or bfloat16.
        readers: number of aliases of the ReLU; their gradients arrive apart and are added in the
            pass that applies the ReLU's.
        average: compute the average of stride 1, which excludes padding from its count.
        map_gradients: takes gradients of ``x`` that do not come by way of autograd.
        averaged_gradients: likewise of the average.

    Returns:
        ``x``, the average (without elements unless ``average``), and ``readers`` tensors that share
        memory, channels_last.

    Differentiable as often as one likes, but for what was handed over, which counts once.

    Raises:
        ValueError: ``x`` has another number of dimensions.
        TypeError: its dtype is another.
    """
    handed = map_gradients or HandedGradients(), averaged_gradients or HandedGradients()
    map, averaged, *rectified = _RectifyAverage.apply(x, readers, average, *handed)
    return map, averaged, rectified
