"""One kind of operation on all the edges that leave a node, computed together.

A branch holds the parameters of the operation for all these edges in one tensor. On an accelerator
it launches one convolution for all of them, and edge i owns channels [i·C, (i+1)·C) of its map. On
a CPU every edge has a map of its own: passes over maps are several times slower on slices of
channels, which leave most of each cache line unused.

The batch normalisation that ends every operation is left to the node that receives it; a branch
only keeps its running statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.networks.operations import to_even
from darts.supernet.mixture import SharedGradient, SharedMap
from snsoftmax.convolve import convolve_to_normalize, convolves
from snsoftmax.node_convolve import node_convolve

Views = dict[str, Tensor]
Placed = tuple[SharedMap, int]
"""A map, and the first of the channels in it that are an edge's."""


def convolution_weight(outputs: int, inputs: int, kernel: int) -> nn.Parameter:
    """A convolution's weight, initialised as `torch.nn.Conv2d` does."""
    bound = 1.0 / math.sqrt(inputs * kernel * kernel)
    return nn.Parameter(torch.empty(outputs, inputs, kernel, kernel).uniform_(-bound, bound))


def batched(x: Tensor) -> bool:
    """Is one convolution made for all edges?"""
    return x.device.type != "cpu"


def placed(maps: Sequence[SharedMap], edges: int, channels: int) -> list[Placed]:
    """Where each of ``edges`` edges is, in maps of their own or one behind the other in one."""
    if len(maps) == edges:
        return [(map, 0) for map in maps]
    return [(maps[0], i * channels) for i in range(edges)]


class Statistics(nn.Module):
    """Running mean and variance of one batch normalisation per edge, [edges, channels]."""

    mean: Tensor | None
    var: Tensor | None

    def __init__(self, edges: int, channels: int, track: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(edges, channels) if track else None)
        self.register_buffer("var", torch.ones(edges, channels) if track else None)

    def row(self, r: int) -> tuple[Tensor | None, Tensor | None]:
        """The running statistics of edge r, each [channels]."""
        if self.mean is None or self.var is None:
            return None, None
        return self.mean[r], self.var[r]

    def blocks(self, rows: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Those of the edges ``rows``, one behind the other in as few tensors as hold them."""
        if self.mean is None or self.var is None:
            return [], []
        adjacent = len(rows) in (1, len(self.mean))
        parts = [slice(rows[0], rows[-1] + 1)] if adjacent else [slice(r, r + 1) for r in rows]
        return [self.mean[p].view(-1) for p in parts], [self.var[p].view(-1) for p in parts]

    def views(self, r: int, prefix: str) -> Views:
        """Names in a conventional network → the part that belongs to edge r."""
        if self.mean is None or self.var is None:
            return {}
        return {f"{prefix}.running_mean": self.mean[r], f"{prefix}.running_var": self.var[r]}


class Branch(nn.Module):
    """The common part: how many edges, how wide, and the final statistics."""

    cast: ClassVar[tuple[str, ...]] = ("weight",)
    """Parameters that convolutions of PyTorch alone read, where `batched`: see `shadows`."""

    def __init__(self, edges: int, channels: int, track: bool) -> None:
        super().__init__()
        self.edges = edges
        self.channels = channels
        self.statistics = Statistics(edges, channels, track)

    def readers(self, rows: Sequence[int], x: Tensor) -> int:
        """How many aliases of the rectified map ``forward`` takes for ``rows``."""
        return 1 if batched(x) else len(rows)

    def forward(self, xs: Sequence[Tensor], rows: Sequence[int]) -> list[Placed]:
        """What becomes of the edges ``rows``, not yet normalised: one map for all, or one each.

        ``xs``: aliases of the rectified map, as many as `readers` says.
        """
        raise NotImplementedError

    def of_rows(self, weight: Tensor, rows: Sequence[int]) -> Tensor:
        """The part of ``weight`` that belongs to the edges ``rows``."""
        if len(rows) == self.edges:
            return weight
        parts = [self.part(r, weight) for r in rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:
        """Names in a conventional network → edge r's part of ``of(parameter)``."""
        raise NotImplementedError

    def part(self, r: int, tensor: Tensor) -> Tensor:
        """Edge r's part of a tensor that has the edges along its first dimension."""
        return tensor.chunk(self.edges)[r]


class DenseConvolutions(Branch):
    """One dense convolution on each edge."""

    def __init__(self, edges: int, channels: int, kernel: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.weight = convolution_weight(edges * channels, channels, kernel)

    def forward(self, xs: Sequence[Tensor], rows: Sequence[int]) -> list[Placed]:  # noqa: D102
        if len(xs) < len(rows):
            shared = SharedMap.of(self.convolve(xs[0], self.of_rows(self.weight, rows), len(rows)))
            return placed([shared], len(rows), self.channels)
        parts = self.weight.chunk(self.edges)
        maps = [self.convolve(x, parts[r], 1) for x, r in zip(xs, rows, strict=True)]
        return placed([SharedMap.of(map) for map in maps], len(rows), self.channels)

    def convolve(self, x: Tensor, weight: Tensor, edges: int) -> Tensor:
        """The map of ``edges`` edges, whose weight is given, [batch, edges·C, ...]."""
        raise NotImplementedError


class Convolutions(DenseConvolutions):
    """nor_conv: dense convolutions."""

    def joins(self, x: Tensor) -> bool:
        """Is ``x`` convolved by `convolved`, together with what else reads it?"""
        return convolves(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor, edges: int) -> Tensor:  # noqa: D102
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        return {"1.weight": self.part(r, of(self.weight)), **self.statistics.views(r, "2")}


def convolved(x: Tensor, parts: Sequence[tuple[Convolutions, Sequence[int]]]) -> list[list[Placed]]:
    """What the rows of several kinds of convolutions, each of which joins, make of one rectified
    map.
    """
    weights: list[Tensor] = []
    for branch, rows in parts:
        of_edges = branch.weight.chunk(branch.edges)
        weights += [of_edges[r] for r in rows]
    by_batch = any(b.training or b.statistics.mean is None for b, _ in parts)
    found = iter(convolve_to_normalize(x, weights, by_batch))
    return [[(SharedMap.convolved(next(found)), 0) for _ in rows] for _, rows in parts]


def convolved_together(
    x: Tensor, parts: Sequence[tuple[Convolutions, Sequence[int]]], live: Tensor | None
) -> list[list[Placed]]:
    """What the rows of 3x3 and of 1x1 convolutions, in this order, make of max(``x``, 0).

    By `node_convolve`, whose ``live`` is of all the rows.
    """
    weights = {3: x.new_empty(0, x.shape[1], 3, 3), 1: x.new_empty(0, x.shape[1], 1, 1)}
    for branch, rows in parts:
        weight = branch.of_rows(branch.weight, rows)
        weights[weight.shape[-1]] = weight.to(x.dtype)
    found = node_convolve(x, weights[3], weights[1], live)
    moments = iter(found.moments)
    maps = {3: found.three, 1: found.one}
    shared = [
        SharedMap(y := maps[b.weight.shape[-1]], SharedGradient(y), [*islice(moments, len(rows))])
        for b, rows in parts
    ]
    return [
        placed([map], len(rows), b.channels) for map, (b, rows) in zip(shared, parts, strict=True)
    ]


class Reductions(DenseConvolutions):
    """skip_connect of stride 2 (factorised reduction).

    Its two strided 1x1 convolutions are two taps of one 2x2 convolution of stride 2.
    """

    def __init__(self, edges: int, channels: int, track: bool) -> None:
        super().__init__(edges, channels, 1, track)

    def convolve(self, x: Tensor, weight: Tensor, edges: int) -> Tensor:  # noqa: D102
        c = self.channels
        first, second = weight.view(edges, 2, c // 2, c).unbind(1)
        zero = torch.zeros_like(first)
        upper_left = torch.stack((first, zero, zero, zero), dim=-1)
        lower_right = torch.stack((zero, zero, zero, second), dim=-1)
        taps = torch.stack((upper_left, lower_right), dim=1)
        return F.conv2d(to_even(x), taps.view(-1, c, 2, 2), stride=2)

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        first, second = self.part(r, of(self.weight)).chunk(2)
        return {
            "conv_1.weight": first,
            "conv_2.weight": second,
            **self.statistics.views(r, "norm"),
        }
