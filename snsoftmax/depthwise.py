"""Depthwise convolutions of one map, by kernels of our own where there are any.

Convolutions of any kind that share their map read it once, and their gradients of it are summed
where they are made. The map may be read through a batch normalisation and a ReLU, which are then
never written.
oneDNN has no fast path for the weight gradient of 5x5 and of dilated depthwise convolutions; cuDNN
copies maps into layouts of its own and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from snsoftmax import _C, reference  # noqa: F401  registers the operators

_ops = torch.ops.snsoftmax
_ON_CPU = {torch.float32, torch.float64, torch.bfloat16}
_CHOSEN = {"cpu": _ON_CPU, "meta": _ON_CPU | {torch.float16}}
"""The dtypes that our own kernels convolve on each type of device."""


MOST_EDGES = 64
"""That an operator of our own takes; a weight may hold several."""


class Normalization(NamedTuple):
    """What a map is read through: max((x - mean)·rstd, 0), each [C], float32 (float64 for such)."""

    mean: Tensor
    rstd: Tensor


_PLAIN = (None, None)


def kernels(
    device: str,
    dtype: torch.dtype,
    kernel: int,
    stride: int,
    dilation: int,
    untried: bool = False,
) -> Literal["own", "library"]:
    """Whose kernels convolve maps of ``dtype`` on ``device``, a type such as ``"cuda"``.

    Our own on the CPU wherever they take the sizes, whatever the number of channels. Those for CUDA
    are built and registered, but have not run on a GPU: until they have passed their device tests
    there, cuDNN's are chosen, but for who asks for what is ``untried``. On the device ``meta``,
    where nothing is computed, it is as it will be on CUDA.
    """
    takes = kernel in (3, 5) and stride in (1, 2) and dilation >= 1
    like = "meta" if untried and device == "cuda" else device
    return "own" if takes and dtype in _CHOSEN.get(like, ()) else "library"


def kernels_for(
    x: Tensor, weight: Tensor, stride: int, dilation: int, untried: bool = False
) -> Literal["own", "library"]:
    """`kernels` of a map and a weight, which ours take in the dtype of their arithmetic alone."""
    if weight.dtype != torch.promote_types(x.dtype, torch.float32):
        return "library"
    return kernels(x.device.type, x.dtype, weight.shape[-1], stride, dilation, untried)


def convolved(
    x: Tensor,
    weights: Sequence[Tensor],
    stride: int,
    dilations: Sequence[int],
    together: Sequence[int] | None = None,
    normalization: Normalization | None = None,
) -> list[Tensor]:
    """`depthwise` by our own kernels for an autograd function of one's own: nothing is recorded."""
    counts = [1] * len(weights) if together is None else together
    read = normalization or _PLAIN
    return list(_ops.depthwise(x, weights, *read, stride, dilations, counts))


def gradients(
    grads: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    stride: int,
    dilations: Sequence[int],
    needs: Sequence[bool],
    normalization: Normalization | None = None,
) -> list[Tensor | None]:
    """Of the map, as it was read, and the weights of `convolved`: of the map if the first of
    ``needs`` is true, of all weights if any other is.

    The gradient of a normalised map is that of the normalisation's result before its ReLU.
    """
    needs_map, *needs_weights = needs
    grad_map = None
    if needs_map:
        through = (None, *_PLAIN) if normalization is None else (x, *normalization)
        grad_map = _ops.depthwise_backward_map(grads, weights, x.shape, *through, stride, dilations)
    if not any(needs_weights):
        return [grad_map, *(None for _ in weights)]
    read = normalization or _PLAIN
    taps = _ops.depthwise_backward_weight(grads, x, weights, *read, stride, dilations)
    parts = taps.split([w.numel() for w in weights])
    return [grad_map, *(part.view(w.shape) for part, w in zip(parts, weights, strict=True))]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        stride: int,
        dilations: Sequence[int],
        together: Sequence[int] | None,
        x: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.settings = stride, dilations, together
        return tuple(convolved(x, weights, stride, dilations, together))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if not torch.is_grad_enabled():
            x, *weights = inputs
            stride, dilations, _ = ctx.settings
            return None, None, None, *gradients(grads, x, weights, stride, dilations, needs)
        # Aliases stand for the inputs, since a map may be computed from a weight.
        x, *weights = inputs = [i.view_as(i) for i in inputs]
        ys = reference.depthwise(x, weights, *ctx.settings)
        wanted = [i for i, needed in zip(inputs, needs, strict=True) if needed]
        found = iter(torch.autograd.grad(ys, wanted, grads, create_graph=True))
        return None, None, None, *(next(found) if needed else None for needed in needs)


def depthwise(
    x: Tensor,
    weights: Sequence[Tensor],
    stride: int,
    dilations: Sequence[int],
    together: Sequence[int] | None = None,
    untried: bool = False,
) -> list[Tensor]:
    """Convolve each channel of ``x``, [N, C, H, W], by its own kernels of each of ``weights``.

    A weight, [m·C, 1, k, k], holds those of m convolutions one after the other, whose results lie
    so in its map, [N, m·C, ...]; or the weights' lengths add up to C, and each convolves so many
    channels, one weight behind the other. Each has its own k, 3 or 5, and dilation. Padded so that
    stride 1 keeps the size. One map for each weight, or for as many together as ``together`` says.
    Under autocast the weights and their gradients stay float32. ``untried``: see `kernels`.
    """
    counts = [1] * len(weights) if together is None else list(together)
    if not counts or min(counts) < 1 or sum(counts) != len(weights):
        raise ValueError(
            f"together must be positive and add up to {len(weights)} weights, at least one, "
            f"but is {counts}"
        )
    owners = {
        kernels_for(x, weight, stride, dilation, untried)
        for weight, dilation in zip(weights, dilations, strict=True)
    }
    if owners != {"own"}:
        return reference.depthwise(x, weights, stride, dilations, counts)
    maps: list[Tensor] = []
    for begin, some in _calls(x, weights, counts):
        part = slice(begin, begin + sum(some))
        maps += _Depthwise.apply(stride, dilations[part], some, x, *weights[part])
    return maps


def _calls(
    x: Tensor, weights: Sequence[Tensor], counts: Sequence[int]
) -> list[tuple[int, list[int]]]:
    """The maps shared out over calls that take their edges: the first weight, and ``together``."""
    calls: list[tuple[int, list[int]]] = [(0, [])]
    place = taken = 0
    for count in counts:
        mine = weights[place : place + count]
        edges = sum(len(w) // x.shape[1] for w in mine)  # of all of x: such with parts are few
        if calls[-1][1] and taken + edges > MOST_EDGES:
            calls.append((place, []))
            taken = 0
        calls[-1][1].append(count)
        place, taken = place + count, taken + edges
    return calls
