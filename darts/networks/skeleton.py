"""The networks around the cells, shared by supernets and stand-alone networks.

A skeleton is made with a function that makes a cell, and calls every cell by the ``call`` that
``forward`` was given: with the maps that enter it, and in a supernet with its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import ResidualBlock


class Place(NamedTuple):
    """Where a cell sits."""

    name: str
    """Its cell type."""
    inputs: tuple[int, ...]
    """Channels of the maps that enter."""
    channels: int
    """Channels of each of its nodes."""
    after_reduction: bool = False
    """The older of its two inputs has twice the resolution."""


MakeCell = Callable[[Place], nn.Module]
Call = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]
"""Calls a cell, given the maps that enter it."""


def with_maps(cell: nn.Module, maps: tuple[Tensor, ...]) -> Tensor:
    """How a cell is called that takes nothing else."""
    out: Tensor = cell(*maps)
    return out


class StackedSkeleton(nn.Module):
    """NAS-Bench-201: stem, three stages of ``cells`` cells with residual blocks between, head.

    Channels double and the resolution halves from stage to stage. ``colours``: of the images.
    """

    def __init__(
        self, channels: int, cells: int, classes: int, make_cell: MakeCell, colours: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(colours, channels, 3, padding=1, bias=False), BatchNorm2d(channels)
        )
        self.cells = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.cells.append(ResidualBlock(channels, 2 * channels))
                channels *= 2
            self.cells.extend(make_cell(Place("cell", (channels,), channels)) for _ in range(cells))
        self.last = nn.Sequential(BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, classes)

    def features(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Pooled features, [batch, channels]."""
        x: Tensor = self.stem(images)
        for cell in self.cells:
            x = cell(x) if isinstance(cell, ResidualBlock) else call(cell, (x,))
        y: Tensor = self.last(x)
        return y.mean((2, 3))

    def forward(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Logits, [batch, classes], of ``images``, [batch, colours, height, width]."""
        logits: Tensor = self.classifier(self.features(images, call))
        return logits


def small_stems(channels: int, colours: int) -> tuple[nn.Module, nn.Module]:
    """For images of 32x32: the first two cells share one input."""
    convolution = nn.Conv2d(colours, channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, BatchNorm2d(channels)), nn.Identity()


def large_stems(channels: int, colours: int) -> tuple[nn.Module, nn.Module]:
    """For images of 224x224: maps of 56x56 and 28x28."""
    first = nn.Sequential(
        nn.Conv2d(colours, channels // 2, 3, stride=2, padding=1, bias=False),
        BatchNorm2d(channels // 2),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        BatchNorm2d(channels),
    )
    second = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
        BatchNorm2d(channels),
    )
    return first, second


class TwoInputSkeleton(nn.Module):
    """DARTS: ``cells`` cells, each fed by the two before it; reductions at 1/3 and 2/3.

    ``large``: for images of ImageNet's size, two stems that shrink them to a fourth and an eighth.
    ``colours``: of the images.
    """

    def __init__(
        self,
        channels: int,
        cells: int,
        classes: int,
        make_cell: MakeCell,
        nodes: int = 4,
        large: bool = False,
        colours: int = 3,
    ) -> None:
        super().__init__()
        older = old = channels if large else 3 * channels
        self.stem, self.second_stem = (large_stems if large else small_stems)(old, colours)
        self.cells = nn.ModuleList()
        self.reductions = (cells // 3, 2 * cells // 3)
        after_reduction = large
        for i in range(cells):
            reduction = i in self.reductions
            channels *= 2 if reduction else 1
            name = "reduce" if reduction else "normal"
            self.cells.append(make_cell(Place(name, (older, old), channels, after_reduction)))
            after_reduction = reduction
            older, old = old, nodes * channels
        self.classifier = nn.Linear(old, classes)

    def states(self, images: Tensor, call: Call = with_maps) -> list[Tensor]:
        """The output map of each cell, in order."""
        older = self.stem(images)
        old = self.second_stem(older)
        outputs = []
        for cell in self.cells:
            older, old = old, call(cell, (older, old))
            outputs.append(old)
        return outputs

    def forward(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Logits, [batch, classes], of ``images``, [batch, colours, height, width]."""
        logits: Tensor = self.classifier(self.states(images, call)[-1].mean((2, 3)))
        return logits
