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

from darts.networks.normalization import EPS, MOMENTUM
from darts.networks.operations import to_even
from darts.supernet.mixture import SharedGradient, SharedMap
from darts.supernet.normalized_depthwise import normalized_depthwise
from darts.supernet.pointwise import pointwise
from snsoftmax.convolve import convolve_to_normalize, convolves
from snsoftmax.depthwise import depthwise
from snsoftmax.node_convolve import node_convolve

Views = dict[str, Tensor]


def convolution_weight(outputs: int, inputs: int, kernel: int) -> nn.Parameter:
    """A convolution's weight, initialised as `torch.nn.Conv2d` does."""
    bound = 1.0 / math.sqrt(inputs * kernel * kernel)
    return nn.Parameter(torch.empty(outputs, inputs, kernel, kernel).uniform_(-bound, bound))


def batched(x: Tensor) -> bool:
    """Is one convolution made for all edges?"""
    return x.device.type != "cpu"


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

    def forward(self, xs: Sequence[Tensor], rows: Sequence[int]) -> list[SharedMap]:
        """Un-normalised maps of the edges ``rows``: one with all their channels, or one each.

        ``xs``: aliases of the rectified map, one for each map that is returned.
        """
        if len(xs) < len(rows):
            return [self.convolve(xs[0], [self.of_rows(w, rows) for w in self.weights()], rows)]
        parts = [weight.chunk(self.edges) for weight in self.weights()]
        return [
            self.convolve(x, [part[r] for part in parts], [r])
            for x, r in zip(xs, rows, strict=True)
        ]

    def weights(self) -> list[Tensor]:
        """The parameters, each with the edges along its first dimension."""
        raise NotImplementedError

    def of_rows(self, weight: Tensor, rows: Sequence[int]) -> Tensor:
        """The part of ``weight`` that belongs to the edges ``rows``."""
        if len(rows) == self.edges:
            return weight
        parts = [self.part(r, weight) for r in rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def convolve(self, x: Tensor, weights: Sequence[Tensor], rows: Sequence[int]) -> SharedMap:
        """The map of the edges ``rows``, whose weights are given, [batch, len(rows)·C, ...]."""
        raise NotImplementedError

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:
        """Names in a conventional network → edge r's part of ``of(parameter)``."""
        raise NotImplementedError

    def part(self, r: int, tensor: Tensor) -> Tensor:
        """Edge r's part of a tensor that has the edges along its first dimension."""
        return tensor.chunk(self.edges)[r]


class Convolutions(Branch):
    """nor_conv: dense convolutions."""

    def __init__(self, edges: int, channels: int, kernel: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.weight = convolution_weight(edges * channels, channels, kernel)

    def weights(self) -> list[Tensor]:  # noqa: D102
        return [self.weight]

    def joins(self, x: Tensor) -> bool:
        """Is ``x`` convolved by `convolved`, together with what else reads it?"""
        return convolves(x, self.weight)

    def convolve(  # noqa: D102
        self, x: Tensor, weights: Sequence[Tensor], rows: Sequence[int]
    ) -> SharedMap:
        return SharedMap.of(F.conv2d(x, weights[0], padding=weights[0].shape[-1] // 2))

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        return {"1.weight": self.part(r, of(self.weight)), **self.statistics.views(r, "2")}


def convolved(
    x: Tensor, parts: Sequence[tuple[Convolutions, Sequence[int]]]
) -> list[list[SharedMap]]:
    """What the rows of several kinds of convolutions, each of which joins, make of one rectified
    map.
    """
    weights: list[Tensor] = []
    for branch, rows in parts:
        of_edges = branch.weight.chunk(branch.edges)
        weights += [of_edges[r] for r in rows]
    by_batch = any(b.training or b.statistics.mean is None for b, _ in parts)
    found = iter(convolve_to_normalize(x, weights, by_batch))
    return [[SharedMap.convolved(next(found)) for _ in rows] for _, rows in parts]


def convolved_together(
    x: Tensor, parts: Sequence[tuple[Convolutions, Sequence[int]]], live: Tensor | None
) -> list[list[SharedMap]]:
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
    return [
        [SharedMap(y := maps[b.weight.shape[-1]], SharedGradient(y), [*islice(moments, len(rows))])]
        for b, rows in parts
    ]


class Reductions(Branch):
    """skip_connect of stride 2 (factorised reduction).

    Its two strided 1x1 convolutions are two taps of one 2x2 convolution of stride 2.
    """

    def __init__(self, edges: int, channels: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.weight = convolution_weight(edges * channels, channels, 1)

    def weights(self) -> list[Tensor]:  # noqa: D102
        return [self.weight]

    def convolve(  # noqa: D102
        self, x: Tensor, weights: Sequence[Tensor], rows: Sequence[int]
    ) -> SharedMap:
        c = self.channels
        first, second = weights[0].view(len(rows), 2, c // 2, c).unbind(1)
        zero = torch.zeros_like(first)
        upper_left = torch.stack((first, zero, zero, zero), dim=-1)
        lower_right = torch.stack((zero, zero, zero, second), dim=-1)
        taps = torch.stack((upper_left, lower_right), dim=1)
        return SharedMap.of(F.conv2d(to_even(x), taps.view(-1, c, 2, 2), stride=2))

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        first, second = self.part(r, of(self.weight)).chunk(2)
        return {
            "conv_1.weight": first,
            "conv_2.weight": second,
            **self.statistics.views(r, "norm"),
        }


class DepthwiseConvolutions(Branch):
    """What begins with depthwise convolutions, which read the rectified map together."""

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.stride = stride
        self.untried = False
        self.depthwise = convolution_weight(edges * channels, 1, kernel)

    dilation = 1

    def readers(self, rows: Sequence[int], x: Tensor) -> int:  # noqa: D102
        return 1

    def forward(self, xs: Sequence[Tensor], rows: Sequence[int]) -> list[SharedMap]:  # noqa: D102
        (x,) = xs
        groups = [list(rows)] if batched(x) else [[r] for r in rows]
        weights = [[self.of_rows(w, group) for w in self.weights()] for group in groups]
        kernels = [first for first, *_ in weights]
        maps = depthwise(x, kernels, self.stride, self.dilation, self.untried)
        return [
            self.convolve(y, rest, group)
            for y, (_, *rest), group in zip(maps, weights, groups, strict=True)
        ]


class DilatedConvolutions(DepthwiseConvolutions):
    """dil_conv: depthwise with dilation 2, then pointwise."""

    cast = ("pointwise",)
    dilation = 2

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, track: bool) -> None:
        super().__init__(edges, channels, kernel, stride, track)
        self.pointwise = convolution_weight(edges * channels, channels, 1)

    def weights(self) -> list[Tensor]:  # noqa: D102
        return [self.depthwise, self.pointwise]

    def convolve(  # noqa: D102
        self, x: Tensor, weights: Sequence[Tensor], rows: Sequence[int]
    ) -> SharedMap:
        return SharedMap.of(pointwise(x, weights[0], len(rows)))

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        return {
            "1.weight": self.part(r, of(self.depthwise)),
            "2.weight": self.part(r, of(self.pointwise)),
            **self.statistics.views(r, "3"),
        }


class SeparableConvolutions(DepthwiseConvolutions):
    """sep_conv: two depthwise-pointwise pairs with batch normalisation and ReLU between."""

    cast = ("pointwise1", "pointwise2")

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, track: bool) -> None:
        super().__init__(edges, channels, kernel, stride, track)
        self.pointwise1 = convolution_weight(edges * channels, channels, 1)
        self.middle = Statistics(edges, channels, track)
        self.depthwise2 = convolution_weight(edges * channels, 1, kernel)
        self.pointwise2 = convolution_weight(edges * channels, channels, 1)

    def weights(self) -> list[Tensor]:  # noqa: D102
        return [self.depthwise, self.pointwise1, self.depthwise2, self.pointwise2]

    def convolve(  # noqa: D102
        self, x: Tensor, weights: Sequence[Tensor], rows: Sequence[int]
    ) -> SharedMap:
        first, between, last = weights
        y = self._normalized_depthwise(pointwise(x, first, len(rows)), between, rows)
        return SharedMap.of(pointwise(y, last, len(rows)))

    def _normalized_depthwise(self, y: Tensor, weight: Tensor, rows: Sequence[int]) -> Tensor:
        mean, var = self.middle.mean, self.middle.var
        settings = MOMENTUM, EPS, self.untried
        if mean is None or var is None:
            return normalized_depthwise(y, weight, ([], []), True, *settings)
        contiguous = len(rows) in (1, self.edges)
        at = slice(rows[0], rows[-1] + 1) if contiguous else list(rows)
        live = mean[at].view(-1), var[at].view(-1)
        z = normalized_depthwise(y, weight, ([live[0]], [live[1]]), self.training, *settings)
        if self.training and not contiguous:  # copies were updated
            mean[at], var[at] = (s.view(len(rows), -1) for s in live)
        return z

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        return {
            "0.1.weight": self.part(r, of(self.depthwise)),
            "0.2.weight": self.part(r, of(self.pointwise1)),
            **self.middle.views(r, "0.3"),
            "1.1.weight": self.part(r, of(self.depthwise2)),
            "1.2.weight": self.part(r, of(self.pointwise2)),
            **self.statistics.views(r, "1.3"),
        }


def make_branch(
    operation: str, edges: int, channels: int, stride: int, track: bool
) -> Branch | None:
    """The branch of ``operation``, or None for one that has none."""
    match operation:
        case "nor_conv_1x1" | "nor_conv_3x3":
            return Convolutions(edges, channels, int(operation[-1]), track)
        case "sep_conv_3x3" | "sep_conv_5x5":
            return SeparableConvolutions(edges, channels, int(operation[-1]), stride, track)
        case "dil_conv_3x3" | "dil_conv_5x5":
            return DilatedConvolutions(edges, channels, int(operation[-1]), stride, track)
        case "skip_connect" if stride == 2:
            return Reductions(edges, channels, track)
    return None
