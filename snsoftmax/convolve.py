"""1x1 and 3x3 convolutions of one map, on the CPU by kernels of our own.

Convolutions that share their input read it once, and their gradients of it are summed where they
are made. 3x3 ones use Winograd's F(4x4, 3x3), with a quarter of the multiplications of a direct
sum and 2.4 times its rounding error; of bfloat16 maps F(2x2, 3x3), with 4/9.

Maps in bfloat16 have weights in float32, as autocast leaves parameters. Transformed tiles and
weights are then rounded to bfloat16 and summed in float32: an error of 0.43 % in a 3x3 convolution
of normal numbers, against 0.24 % where the weights and the result alone are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snsoftmax import _C

_ops = torch.ops.snsoftmax
CHANNELS = 16
"""Numbers of channels must be multiples of it."""
_WEIGHT_OF = {torch.float32: torch.float32, torch.float64: torch.float64}
if _C.build_info()["cpu_capability"] == "avx512_bf16":  # oneDNN is faster elsewhere
    _WEIGHT_OF[torch.bfloat16] = torch.float32
"""The dtypes of maps that are convolved here → that of their weights."""


def convolves(x: Tensor, weight: Tensor) -> bool:
    """Is `convolve` the fastest way to convolve ``x`` with ``weight``, and can it?"""
    return (
        x.device.type == "cpu"
        and _WEIGHT_OF.get(x.dtype) == weight.dtype
        and weight.shape[-1] in (1, 3)
        and not any(c % CHANNELS for c in weight.shape[:2])
    )


class NormalizedGradient:
    """The gradient of a map whose one reader normalises it, in the backward pass under way.

    The reader hands over the gradient g of its own result and a line, [4, C] in opmath: mean,
    slope, tilt and shift of slope g + tilt (y - mean) + shift, the gradient of the map y. It is
    formed in a cache by the convolution that made the map, and never written.
    """

    def __init__(self) -> None:
        self._task = -1
        self._handed: tuple[Tensor, Tensor] | None = None

    def hand(self, gradient: Tensor, line: Tensor) -> None:
        """What the reader gives. The map has one reader alone."""
        self._task = torch._C._current_graph_task_id()
        self._handed = gradient, line

    def take(self) -> tuple[Tensor, Tensor] | None:
        """What was given in this pass."""
        handed, self._handed = self._handed, None
        return handed if self._task == torch._C._current_graph_task_id() else None


class Convolved(NamedTuple):
    """A convolution's result for a reader that normalises it.

    ``moments``: [2, K] in float64, mean and sum of squared deviations of each channel, if asked
    for. ``gradient`` takes the reader's gradient in place of autograd.
    """

    map: Tensor
    moments: Tensor | None
    gradient: NormalizedGradient


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        moments: bool,
        gradients: Sequence[NormalizedGradient],
        x: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        if moments:
            maps, found = _ops.convolve_moments(x, weights)
            ctx.mark_non_differentiable(found)
        else:
            maps, found = [x] * len(weights), None
            for places in _by_kernel(weights):
                some = _ops.convolve(x, [weights[i] for i in places])
                for i, each in zip(places, some, strict=True):
                    maps[i] = each
        needed = x if any(ctx.needs_input_grad[3:]) else None
        ctx.save_for_backward(needed, *weights, *(maps if gradients else ()))
        ctx.size, ctx.gradients = x.shape, gradients
        ctx.set_materialize_grads(False)
        return *maps, *([] if found is None else [found])

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        needs_map, *needs_weights = ctx.needs_input_grad[2:]
        count = len(needs_weights)
        weights, maps, grads = saved[:count], saved[count:], given[:count]
        handed = [gradient.take() for gradient in ctx.gradients]
        nothing = None, None
        if handed and None not in handed and not any(g is not None for g in grads):
            of_maps, lines = zip(*handed, strict=True)
            grad_map, of_weights = _ops.convolve_normalized_backward(
                of_maps, maps, lines, x, weights, needs_map
            )
            return *nothing, grad_map if needs_map else None, *(of_weights or [None] * count)
        whole = _written(grads, maps, handed)
        if whole is None:
            return None, *nothing, *(None for _ in weights)
        if torch.is_grad_enabled():
            needs = [needs_map, any(needs_weights)]
            return *nothing, *_differentiable(whole, x, ctx.size, weights, needs)
        return *nothing, *_gradients(whole, x, weights, [needs_map, any(needs_weights)])


def _by_kernel(weights: Sequence[Tensor]) -> list[list[int]]:
    """The places of the weights with kernels of each size."""
    sizes = [w.shape[-1] for w in weights]
    return [[i for i, s in enumerate(sizes) if s == size] for size in dict.fromkeys(sizes)]


def _gradients(
    grads: Sequence[Tensor], x: Tensor | None, weights: Sequence[Tensor], needs: list[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of the map and of each weight, by sizes of kernels."""
    maps: list[Tensor] = []
    of_weights: list[Tensor | None] = [None] * len(weights)
    for places in _by_kernel(weights):
        some = [grads[i] for i in places]
        if needs[0]:
            maps.append(_ops.convolve_backward_map(some, [weights[i] for i in places]))
        if needs[1]:
            found = _ops.convolve_backward_weight(some, x, weights[places[0]].shape[-1])
            for i, each in zip(places, found, strict=True):
                of_weights[i] = each
    return sum(maps[1:], maps[0]) if needs[0] else None, *of_weights


def _written(
    grads: Sequence[Tensor | None],
    maps: Sequence[Tensor],
    handed: Sequence[tuple[Tensor, Tensor] | None],
) -> list[Tensor] | None:
    """The maps' gradients, be it from autograd or from readers, as tensors; None if all are 0."""
    found = list(grads)
    for i, (y, given) in enumerate(zip(maps, handed, strict=True)):
        if given is not None:
            gradient, line = given
            mean, slope, tilt, shift = (part.view(-1, 1, 1) for part in line)
            whole = (slope * gradient + (tilt * (y - mean) + shift)).to(y.dtype)
            direct = found[i]
            found[i] = whole if direct is None else direct + whole
    like = next((g for g in found if g is not None), None)
    if like is None:
        return None
    return [torch.zeros_like(like) if g is None else g for g in found]


def _differentiable(
    grads: Sequence[Tensor],
    x: Tensor | None,
    size: torch.Size,
    weights: Sequence[Tensor],
    needs: list[bool],
    stride: int = 1,
) -> tuple[Tensor | None, ...]:
    """The gradients as functions that can be differentiated again; ``size`` is that of x."""
    if x is None:  # only its shape counts
        x = grads[0].new_empty(size)
    maps, of_weights = [], []
    for g, w in zip(grads, weights, strict=True):
        padding = [w.shape[-1] // 2] * 2
        windows: tuple[Any, ...] = [stride] * 2, padding, [1, 1], False, [0, 0], 1
        of_map, of_weight, _ = torch.ops.aten.convolution_backward(
            g, x, w.to(g.dtype), None, *windows, [*needs, False]
        )
        maps.append(of_map)
        of_weights.append(of_weight if of_weight is None else of_weight.to(w.dtype))
    return sum(maps[1:], maps[0]) if needs[0] else None, *of_weights


class _ConvolveStrided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.size = x.shape
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        y: Tensor = _ops.convolve_strided(x, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = list(ctx.needs_input_grad)
        if torch.is_grad_enabled():
            return _differentiable([grad], x, ctx.size, [weight], needs, stride=2)
        of_map = of_weight = None
        if needs[0]:
            of_map = _ops.convolve_strided_backward_map(grad, weight, *ctx.size[2:])
        if needs[1]:
            of_weight = _ops.convolve_strided_backward_weight(grad, x, weight.shape[-1])
        return of_map, of_weight


def convolve_strided(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve ``x`` with ``weight`` at stride 2: [N, C, H, W] to [N, K, ceil(H/2), ceil(W/2)].

    As `convolve` has it, but for a direct sum over taps.
    """
    y: Tensor = _ConvolveStrided.apply(x, weight)
    return y


def convolve(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Convolve ``x``, [N, C, H, W], with each of ``weights``, [K, C, k, k], at its size.

    On the CPU, float32 or float64, or bfloat16 with weights in float32; k is 1 or 3, C and K are
    multiples of 16.
    """
    return list(_Convolve.apply(False, (), x, *weights))


def convolve_to_normalize(x: Tensor, weights: Sequence[Tensor], moments: bool) -> list[Convolved]:
    """`convolve` for readers, one of each result, that normalise it by batch statistics.

    1x1 and 3x3 kernels may be mixed.
    Moments are taken while a result is in a cache, if ``moments``, and the gradients that the
    readers hand over are formed there, image by image.
    """
    gradients = [NormalizedGradient() for _ in weights]
    maps = list(_Convolve.apply(moments, gradients, x, *weights))
    found = maps.pop() if moments else [None] * len(weights)
    return [Convolved(*each) for each in zip(maps, found, gradients, strict=True)]
