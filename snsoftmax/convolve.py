"""1x1 and 3x3 convolutions of one map, on the CPU by kernels of our own.

Convolutions that share their input read it once, and their gradients of it are summed where they
are made. 3x3 ones use Winograd's F(2x2, 3x3), with 4/9 of the multiplications of oneDNN.

Maps in bfloat16 have weights in float32, as autocast leaves parameters. Transformed tiles and
weights are then rounded to bfloat16 and summed in float32: an error of 0.43 % in a 3x3 convolution
of normal numbers, against 0.24 % where the weights and the result alone are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x if any(ctx.needs_input_grad[1:]) else None, *weights)
        return tuple(_ops.convolve(x, weights))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs_map, *needs_weights = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return _differentiable(grads, x, weights, [needs_map, any(needs_weights)])
        grad_map = _ops.convolve_backward_map(grads, weights) if needs_map else None
        if not any(needs_weights):
            return grad_map, *(None for _ in weights)
        return grad_map, *_ops.convolve_backward_weight(grads, x, weights[0].shape[-1])


def _differentiable(
    grads: Sequence[Tensor], x: Tensor | None, weights: Sequence[Tensor], needs: list[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients as functions that can be differentiated again."""
    padding = [weights[0].shape[-1] // 2] * 2
    if x is None:  # only its shape counts
        x = grads[0].new_empty(len(grads[0]), weights[0].shape[1], *grads[0].shape[2:])
    maps, of_weights = [], []
    for g, w in zip(grads, weights, strict=True):
        of_map, of_weight, _ = torch.ops.aten.convolution_backward(
            g, x, w.to(g.dtype), None, [1, 1], padding, [1, 1], False, [0, 0], 1, [*needs, False]
        )
        maps.append(of_map)
        of_weights.append(of_weight if of_weight is None else of_weight.to(w.dtype))
    return sum(maps[1:], maps[0]) if needs[0] else None, *of_weights


def convolve(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Convolve ``x``, [N, C, H, W], with each of ``weights``, [K, C, k, k], at its size.

    On the CPU, float32 or float64, or bfloat16 with weights in float32; k is 1 or 3, C and K are
    multiples of 16.
    """
    return list(_Convolve.apply(x, *weights))
