"""One kind of operation on all the edges that leave a node, computed together.

A branch holds the parameters of the operation for ``edges`` edges in one tensor and returns one
map in which edge r owns channels [r·C, (r+1)·C). The batch normalisation that ends every
operation is left to the node that receives it; a branch only keeps its running statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM, EPS = 0.1, 1e-5
"""Of every batch normalisation."""

Views = dict[str, Tensor]


def convolution_weight(outputs: int, inputs: int, kernel: int) -> nn.Parameter:
    """A convolution's weight, initialised as `torch.nn.Conv2d` does."""
    bound = 1.0 / math.sqrt(inputs * kernel * kernel)
    return nn.Parameter(torch.empty(outputs, inputs, kernel, kernel).uniform_(-bound, bound))


def select(tensor: Tensor, rows: Sequence[int], channels: int) -> Tensor:
    """Channels of the edges ``rows``, a view where they are adjacent."""
    if len(rows) * channels == len(tensor):
        return tensor
    if all(b == a + 1 for a, b in pairwise(rows)):
        return tensor.narrow(0, rows[0] * channels, len(rows) * channels)
    return torch.cat([tensor.narrow(0, r * channels, channels) for r in rows])


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

    def __init__(self, edges: int, channels: int, track: bool) -> None:
        super().__init__()
        self.edges = edges
        self.channels = channels
        self.statistics = Statistics(edges, channels, track)

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """Un-normalised maps, [batch, len(rows)·C, ...], of the rectified map ``x``."""
        raise NotImplementedError

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:
        """Names in a conventional network → edge r's part of ``of(parameter)``."""
        raise NotImplementedError


class Convolutions(Branch):
    """nor_conv: one dense convolution for all edges."""

    def __init__(self, edges: int, channels: int, kernel: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.weight = convolution_weight(edges * channels, channels, kernel)

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:  # noqa: D102
        weight = select(self.weight, rows, self.channels)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        c = self.channels
        return {"1.weight": of(self.weight)[r * c : (r + 1) * c], **self.statistics.views(r, "2")}


class Reductions(Branch):
    """skip_connect of stride 2 (factorised reduction).

    Its two strided 1x1 convolutions are two taps of one 2x2 convolution of stride 2.
    """

    def __init__(self, edges: int, channels: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        weight = convolution_weight(edges * channels, channels, 1)
        self.weight = nn.Parameter(weight.detach().view(edges, 2, channels // 2, channels))

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:  # noqa: D102
        weight = select(self.weight, rows, 1)
        first, second = weight.unbind(1)
        zero = torch.zeros_like(first)
        taps = torch.stack(
            (
                torch.stack((first, zero, zero, zero), -1),
                torch.stack((zero, zero, zero, second), -1),
            ),
            dim=1,
        )
        return F.conv2d(x, taps.view(-1, self.channels, 2, 2), stride=2)

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        first, second = of(self.weight)[r, :, :, :, None, None]
        return {
            "conv_1.weight": first,
            "conv_2.weight": second,
            **self.statistics.views(r, "norm"),
        }


class _DepthwisePair(nn.Module):
    """Depthwise and pointwise convolution of every edge."""

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.dilation = dilation
        self.depthwise = convolution_weight(edges * channels, 1, kernel)
        self.pointwise = convolution_weight(edges * channels, channels, 1)

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """``x``: one rectified map for all rows, or one per row."""
        depthwise = select(self.depthwise, rows, self.channels)
        if x.shape[1] != len(depthwise):
            x = torch.cat([x] * len(rows), dim=1)
        x = F.conv2d(
            x,
            depthwise,
            stride=self.stride,
            padding=self.dilation * (depthwise.shape[-1] // 2),
            dilation=self.dilation,
            groups=len(depthwise),
        )
        return F.conv2d(x, select(self.pointwise, rows, self.channels), groups=len(rows))

    def views(self, r: int, of: Callable[[Tensor], Tensor], prefix: str = "") -> Views:
        rows = slice(r * self.channels, (r + 1) * self.channels)
        return {
            f"{prefix}1.weight": of(self.depthwise)[rows],
            f"{prefix}2.weight": of(self.pointwise)[rows],
        }


class DilatedConvolutions(Branch):
    """dil_conv: depthwise with dilation 2, then pointwise."""

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.pair = _DepthwisePair(edges, channels, kernel, stride, 2)

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:  # noqa: D102
        y: Tensor = self.pair(x, rows)
        return y

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        return {**self.pair.views(r, of), **self.statistics.views(r, "3")}


class SeparableConvolutions(Branch):
    """sep_conv: two depthwise-pointwise pairs with batch normalisation and ReLU between."""

    def __init__(self, edges: int, channels: int, kernel: int, stride: int, track: bool) -> None:
        super().__init__(edges, channels, track)
        self.first = _DepthwisePair(edges, channels, kernel, stride, 1)
        self.second = _DepthwisePair(edges, channels, kernel, 1, 1)
        self.middle = Statistics(edges, channels, track)

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:  # noqa: D102
        y = self.first(x, rows)
        mean, var = self.middle.mean, self.middle.var
        if mean is None or var is None:
            y = F.batch_norm(y, None, None, training=True)
        elif len(rows) == self.edges:
            y = F.batch_norm(
                y, mean.view(-1), var.view(-1), None, None, self.training, MOMENTUM, EPS
            )
        else:
            live_mean, live_var = mean[list(rows)].view(-1), var[list(rows)].view(-1)
            y = F.batch_norm(y, live_mean, live_var, None, None, self.training, MOMENTUM, EPS)
            if self.training:
                mean[list(rows)] = live_mean.view(len(rows), -1)
                var[list(rows)] = live_var.view(len(rows), -1)
        z: Tensor = self.second(y.relu(), rows)
        return z

    def views(self, r: int, of: Callable[[Tensor], Tensor]) -> Views:  # noqa: D102
        return {
            **self.first.views(r, of, "0."),
            **self.middle.views(r, "0.3"),
            **self.second.views(r, of, "1."),
            **self.statistics.views(r, "1.3"),
        }


def make_branch(
    operation: str, edges: int, channels: int, stride: int, track: bool
) -> Branch | None:
    """The branch of ``operation``, or None for one that has no parameters."""
    kind, _, size = operation.rpartition("_")
    kernel = int(size[0]) if size[:1].isdigit() else 0
    if kind == "nor_conv":
        return Convolutions(edges, channels, kernel, track)
    if kind == "sep_conv":
        return SeparableConvolutions(edges, channels, kernel, stride, track)
    if kind == "dil_conv":
        return DilatedConvolutions(edges, channels, kernel, stride, track)
    if operation == "skip_connect" and stride == 2:
        return Reductions(edges, channels, track)
    return None
