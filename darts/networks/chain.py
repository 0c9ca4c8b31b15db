"""A chain of layers as MobileNet's: a stem, stages of layers of their own kind each, a head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from darts.networks.in_turn import InTurn
from darts.networks.layers import LAYERS, InvertedResidual, keeps
from darts.networks.operations import ConvNormReLU
from darts.networks.table import (
    Cells,
    Choice,
    Edge,
    LayerPlace,
    MakeCell,
    NetworkSizes,
    Skeleton,
    check_operations,
    enter,
    require,
)


class Stage(NamedTuple):
    """Layers of one width, of which the first has the stride."""

    width: float
    """Channels, in multiples of C."""
    layers: int
    stride: int


class ChainSkeleton(InTurn):
    """Stem, one block that is not searched, the layers, a 1x1 convolution, the classifier."""

    def __init__(self, shape: Chain, sizes: NetworkSizes, make_layer: MakeCell) -> None:
        super().__init__()
        stem, first, last = (
            round(width * sizes.channels) for width in (shape.stem, shape.first, shape.last)
        )
        self.stem = nn.Sequential(
            ConvNormReLU(sizes.colours, stem, 3, shape.stride, True, True),
            InvertedResidual(stem, first, 3, 1, 1, True, True),
        )
        places = shape.places(sizes.channels)
        self.cells = nn.ModuleList(make_layer(place) for place in places)
        self.last = ConvNormReLU(places[-1].outputs, last, 1, 1, True, True)
        self.classifier = nn.Linear(last, sizes.classes)


class DiscreteLayer(nn.Module):
    """A layer of the network that was found."""

    def __init__(self, name: str, choice: Choice, place: LayerPlace) -> None:
        super().__init__()
        self.name = name
        self.choices = (choice,)
        self.place = place
        make = LAYERS[choice.operation]
        self.operations = nn.ModuleList(
            [make(place.inputs, place.outputs, place.stride, True, True)]
        )

    def geometry(self, choice: Choice) -> tuple[int, int]:
        """Stride of the operation, and the channels that leave it."""
        return self.place.stride, self.place.outputs

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = self.operations[0](x)
        return y


class ChainNetwork(ChainSkeleton):
    """The network that was found; ``drop_path`` as `InvertedResidual` has it."""

    @property
    def drop_path(self) -> float:
        """Probability of dropping what a layer adds to its input, for a sample."""
        return next((m.drop_path for m in self.residuals()), 0.0)

    @drop_path.setter
    def drop_path(self, probability: float) -> None:
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"drop_path={probability} must be in [0, 1)")
        for module in self.residuals():
            module.drop_path = probability

    def residuals(self) -> list[InvertedResidual]:
        """The layers that can be dropped."""
        return [m for m in self.modules() if isinstance(m, InvertedResidual)]


@dataclass(frozen=True)
class Chain(Skeleton):
    """The entry; its text is ``NAME(layer, layer, ...)``.

    Layers have α of their own. Those that keep width and resolution, and may be left out, are the
    cell type "keeping", those that change it "changing"; a type's edges lead from a layer's input,
    the chain's node i, to its output, i + 1. So rows of one α have equally many candidates, and no
    entry of α stands for a choice that there is not.
    """

    stem: float
    """Channels that leave the stem, as all widths in multiples of C."""
    first: float
    """Channels that leave the block after it, which is not searched."""
    stride: int
    """Of the stem."""
    stages: tuple[Stage, ...]
    last: float
    """Channels of the 1x1 convolution before the classifier."""

    chain: ClassVar[bool] = True
    unit: ClassVar[str] = "layers"
    large_images: ClassVar[bool] = True
    search_settings: ClassVar[Mapping[str, Any]] = {"supernet.cells": 1}

    def places(self, channels: int) -> list[LayerPlace]:
        """Every layer's, in order, for C = ``channels``."""
        found: list[LayerPlace] = []
        inputs = round(self.first * channels)
        for stage in self.stages:
            for layer in range(stage.layers):
                outputs = round(stage.width * channels)
                stride = stage.stride if layer == 0 else 1
                found.append(LayerPlace(len(found), inputs, outputs, stride))
                inputs = outputs
        return found

    @cached_property
    def groups(self) -> dict[str, tuple[Edge, ...]]:
        """The edges of each cell type that occurs."""
        edges: dict[str, list[Edge]] = {"changing": [], "keeping": []}
        # Of a width at which no two different ones are rounded to the same.
        for i, inputs, outputs, stride in self.places(1 << 10):
            kind = "keeping" if keeps(inputs, outputs, stride) else "changing"
            edges[kind].append((i, i + 1))
        return {name: tuple(found) for name, found in edges.items() if found}

    def check(self, cells: Mapping[str, Sequence[Edge]]) -> None:  # noqa: D102
        if {name: tuple(edges) for name, edges in cells.items()} != self.groups:
            raise ValueError(
                f"cells {sorted(cells)} must have the edges of SKELETONS[{self.name!r}].groups"
            )

    def check_sizes(self, sizes: NetworkSizes) -> None:  # noqa: D102
        super().check_sizes(sizes)
        if sizes.cells != 1:
            raise ValueError(
                f"cells={sizes.cells} must be 1, since a chain's layers are its space's"
            )

    def body(self, sizes: NetworkSizes, make_cell: MakeCell) -> nn.Module:  # noqa: D102
        return ChainSkeleton(self, sizes, make_cell)

    def network(  # noqa: D102
        self, cells: Cells, sizes: NetworkSizes, *, auxiliary: bool, large: bool
    ) -> nn.Module:
        layers = {c.source: (name, c) for name, choices in cells for c in choices}
        return ChainNetwork(self, sizes, lambda place: DiscreteLayer(*layers[place.number], place))

    def write(self, cells: Cells) -> str:  # noqa: D102
        layers = sorted((c for _, choices in cells for c in choices), key=lambda c: c.source)
        return f"{self.name}({', '.join(c.operation for c in layers)})"

    def reads(self, text: str) -> bool:  # noqa: D102
        return text.startswith(f"{self.name}(")

    def read(self, text: str) -> Cells:  # noqa: D102
        inner = re.fullmatch(rf"{re.escape(self.name)}\(([\w\s,]*)\)", text)
        count = sum(len(edges) for edges in self.groups.values())
        names = [part.strip() for part in inner[1].split(",")] if inner else []
        require(text, len(names) == count, f"must be {self.name}(...) with {count} layers")
        cells = tuple(
            (group, tuple(Choice(names[source], source, target) for source, target in edges))
            for group, edges in self.groups.items()
        )
        for group, choices in cells:
            check_operations(text, choices, LAYERS)
            skips = any(c.operation == "skip_connect" for c in choices)
            require(
                text, group == "keeping" or not skips, "leaves out a layer that changes the width"
            )
        return cells


def proxyless(stem: int, stages: Sequence[int]) -> dict[str, Any]:
    """Widths and depths of ProxylessNAS, at C = 16, with the strides of the stem and the stages."""
    widths, layers = (1.5, 2.5, 5, 6, 12, 20), (4, 4, 4, 4, 4, 1)
    found = tuple(Stage(*stage) for stage in zip(widths, layers, stages, strict=True))
    return {"stem": 2, "first": 1, "stride": stem, "stages": found, "last": 80}


MOBILENET = enter(Chain("mobilenet", **proxyless(2, (2, 2, 2, 1, 2, 1))))
MOBILENET_32 = enter(Chain("mobilenet-32", **proxyless(1, (1, 2, 2, 1, 2, 1))))
