"""1x1 convolutions of several edges, each of channels of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snsoftmax.convolve import convolve, convolves

CHUNKS = 32
"""Most parts of the pixels that a gradient of the weights is summed over, side by side."""


def _rows(x: Tensor, edges: int, chunks: int = 1) -> Tensor:
    """[N, edges·C, H, W], dense and channels_last, seen as [chunks·edges, N·H·W / chunks, C].

    Chunk i has every ``chunks``-th pixel from i on: only so the products of a batch lie evenly.
    """
    c = x.shape[1] // edges
    return x.permute(0, 2, 3, 1).reshape(-1, chunks * edges, c).transpose(0, 1)


class _Products(torch.autograd.Function):
    """One batched product for all edges, each way: cuDNN launches several kernels for each edge,
    most of them copies of its channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, edges: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        kernels = weight.reshape(edges, -1, weight.shape[1])
        ctx.save_for_backward(x, weight)
        ctx.edges = edges
        shape = x.shape[0], len(weight), *x.shape[2:]
        layout = torch.channels_last
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        torch.bmm(_rows(x, edges), kernels.transpose(1, 2), out=_rows(y, edges))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        edges, needs = ctx.edges, ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            inputs = x.view_as(x), weight.view_as(weight)
            y = F.conv2d(*inputs, groups=edges)
            wanted = [i for i, needed in zip(inputs, needs, strict=True) if needed]
            found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
            return *(next(found) if needed else None for needed in needs), None
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if needs[0]:
            of_x = torch.empty_like(x)
            kernels = weight.reshape(edges, -1, weight.shape[1])
            torch.bmm(_rows(grad, edges), kernels, out=_rows(of_x, edges))
        if needs[1]:
            chunks = math.gcd(x.shape[0] * x.shape[2] * x.shape[3], CHUNKS)
            left, right = (_rows(t, edges, chunks) for t in (grad, x))
            parts = torch.bmm(left.transpose(1, 2), right)
            of_weight = torch.empty_like(weight)  # in its strides, as optimisers want it
            torch.sum(parts.view(chunks, -1), 0, out=of_weight.view(-1))
        return of_x, of_weight, None


def pointwise(x: Tensor, weight: Tensor, edges: int) -> Tensor:
    """Convolve ``x``, [N, edges·C, H, W], 1x1, each edge's channels by its own kernels.

    ``weight``: [edges·K, C, 1, 1], those of an edge one behind the other, as those of the result,
    [N, edges·K, H, W].
    """
    if edges == 1 and convolves(x, weight):
        return convolve(x, [weight])[0]
    if edges > 1:
        y: Tensor = _Products.apply(x, weight.to(x.dtype), edges)
        return y
    return F.conv2d(x, weight)
