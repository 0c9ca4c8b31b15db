"""Operations that begin with depthwise convolutions: separable and dilated ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from darts.networks.normalization import EPS, MOMENTUM
from darts.supernet.branches import (
    Branch,
    Placed,
    Statistics,
    Views,
    batched,
    convolution_weight,
)
from darts.supernet.mixture import SharedMap
from darts.supernet.normalized_depthwise import normalized_depthwise
from darts.supernet.pointwise import pointwise
from snsoftmax.depthwise import depthwise, kernels_for


class Part(NamedTuple):
    """Some of a branch's edges, and of each of its parameters what is theirs."""

    branch: DepthwiseConvolutions
    rows: Sequence[int]
    weights: dict[str, Tensor]


def parts_of(branch: DepthwiseConvolutions, rows: Sequence[int], apart: bool) -> list[Part]:
    """The edges ``rows`` together, or each for itself where ``apart``."""
    parameters = dict(branch.named_parameters(recurse=False))
    if not apart:
        return [Part(branch, rows, {n: branch.of_rows(p, rows) for n, p in parameters.items()})]
    chunks = {name: parameter.chunk(branch.edges) for name, parameter in parameters.items()}
    return [Part(branch, [r], {name: of[r] for name, of in chunks.items()}) for r in rows]


def _kernels(parts: Sequence[Part], name: str) -> tuple[Tensor, int]:
    """The parameter ``name`` of all the parts' edges, and how many they are."""
    weights = [part.weights[name] for part in parts]
    edges = sum(len(part.rows) for part in parts)
    return weights[0] if len(weights) == 1 else torch.cat(weights), edges


class DepthwiseConvolutions(Branch):
    """What begins with depthwise convolutions, which read the rectified map together."""

    dilation = 1

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.stride = stride
        self.untried = False
        self.depthwise = convolution_weight(edges * channels, 1, kernel)

    def readers(self, rows: Sequence[int], x: Tensor) -> int:  # noqa: D102
        return 1

    def joins(self, x: Tensor) -> bool:
        """Is ``x`` read together with what else begins so? Where our own kernels do."""
        own = kernels_for(x, self.depthwise, self.stride, self.dilation, self.untried)
        return own == "own"

    def forward(self, xs: Sequence[Tensor], rows: Sequence[int]) -> list[Placed]:  # noqa: D102
        (x,) = xs
        return convolved_depthwise(x, [(self, rows)])[0]

    @classmethod
    def finish(cls, y: Tensor, parts: Sequence[Part]) -> Tensor:
        """The maps of the parts' edges, one behind the other, from what ``depthwise`` made."""
        raise NotImplementedError


class DilatedConvolutions(DepthwiseConvolutions):
    """dil_conv: depthwise with dilation 2, then pointwise."""

    cast = ("pointwise",)
    dilation = 2

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, track: bool) -> None:
        super().__init__(edges, channels, kernel, stride, track)
        self.pointwise = convolution_weight(edges * channels, channels, 1)

    @classmethod
    def finish(cls, y: Tensor, parts: Sequence[Part]) -> Tensor:  # noqa: D102
        return pointwise(y, *_kernels(parts, "pointwise"))

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

    @classmethod
    def finish(cls, y: Tensor, parts: Sequence[Part]) -> Tensor:  # noqa: D102
        means: list[Tensor] = []
        variances: list[Tensor] = []
        for part in parts:
            assert isinstance(part.branch, cls)
            mean, var = part.branch.middle.blocks(part.rows)
            means += mean
            variances += var
        first = parts[0].branch
        training = first.training or not means
        z = normalized_depthwise(
            pointwise(y, *_kernels(parts, "pointwise1")),
            [part.weights["depthwise2"] for part in parts],
            (means, variances),
            training,
            MOMENTUM,
            EPS,
            first.untried,
        )
        return pointwise(z, *_kernels(parts, "pointwise2"))

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        return {
            "0.1.weight": self.part(r, of(self.depthwise)),
            "0.2.weight": self.part(r, of(self.pointwise1)),
            **self.middle.views(r, "0.3"),
            "1.1.weight": self.part(r, of(self.depthwise2)),
            "1.2.weight": self.part(r, of(self.pointwise2)),
            **self.statistics.views(r, "1.3"),
        }


def convolved_depthwise(
    x: Tensor, leaving: Sequence[tuple[DepthwiseConvolutions, Sequence[int]]]
) -> list[list[Placed]]:
    """What the rows of operations that begin with depthwise convolutions make of one rectified map.

    It is read once. Where `batched`, operations of one kind then go on together.
    """
    at_once = batched(x)
    parts = [part for branch, rows in leaving for part in parts_of(branch, rows, not at_once)]
    if at_once:
        kinds = dict.fromkeys(type(branch) for branch, _ in leaving)
        groups = [[part for part in parts if type(part.branch) is kind] for kind in kinds]
    else:
        groups = [[part] for part in parts]
    each = [part for group in groups for part in group]
    first = each[0].branch
    maps = depthwise(
        x,
        [part.weights["depthwise"] for part in each],
        first.stride,
        [part.branch.dilation for part in each],
        [len(group) for group in groups],
        first.untried,
    )
    found: dict[DepthwiseConvolutions, list[Placed]] = {branch: [] for branch, _ in leaving}
    for y, group in zip(maps, groups, strict=True):
        shared = SharedMap.of(group[0].branch.finish(y, group))
        owners = [part.branch for part in group for _ in part.rows]
        for i, branch in enumerate(owners):
            found[branch].append((shared, i * branch.channels))
    return [found[branch] for branch, _ in leaving]
