"""NATS-Bench's skeleton of its size space: one cell in every stage, of layers of any width.

Dong, Liu, Musial, Gabrys: NATS-Bench, TPAMI 2021. Read: AutoDL-Projects
(models/shape_infers/InferTinyCellNet.py, models/shape_searchs/generic_size_tiny_cell_model.py,
exps/NATS-algos/search-size.py). Stem, a cell, a residual block, a cell, a residual block, a cell;
each of these five has a width of its own, an eighth to the whole of C, and the stem that of the
first. The cell is the best one on CIFAR-100 in NAS-Bench-201.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from darts.networks.in_turn import InTurn
from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import ReLU, ResidualBlock
from darts.networks.stacked import DiscreteCell
from darts.networks.table import (
    SKELETONS,
    Cells,
    Choice,
    Edge,
    LayerPlace,
    MakeCell,
    NetworkSizes,
    Place,
    Skeleton,
    enter,
    require,
    require_names,
)

CELL = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
REDUCES = (False, True, False, True, False)
"""Whether each layer is a residual block that halves the resolution, and not a cell."""
EDGES = tuple((i, i + 1) for i in range(len(REDUCES)))
WIDEST = 64
WIDTHS = tuple(str(width) for width in range(8, WIDEST + 1, 8))
"""Of a layer, at C = 64."""


class WidthsSkeleton(InTurn):
    """Stem, five layers of the given widths, head."""

    def __init__(self, widths: Sequence[int], sizes: NetworkSizes, make_layer: MakeCell) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(sizes.colours, widths[0], 3, padding=1, bias=False), BatchNorm2d(widths[0])
        )
        self.cells = nn.ModuleList()
        inputs = widths[0]
        for number, (outputs, reduces) in enumerate(zip(widths, REDUCES, strict=True)):
            self.cells.append(make_layer(LayerPlace(number, inputs, outputs, 2 if reduces else 1)))
            inputs = outputs
        self.last = nn.Sequential(BatchNorm2d(inputs), ReLU())
        self.classifier = nn.Linear(inputs, sizes.classes)


def block(place: LayerPlace) -> nn.Module:
    """What stands at a layer's place."""
    if place.stride == 2:
        return ResidualBlock(place.inputs, place.outputs)
    choices = dict(SKELETONS["nb201"].read(CELL))["cell"]
    return DiscreteCell(choices, Place("cell", (place.inputs,), place.outputs))


@dataclass(frozen=True)
class Widths(Skeleton):
    """The entry; its text is the benchmark's, such as ``8:16:24:32:64``, at C = 64."""

    chain: ClassVar[bool] = True
    unit: ClassVar[str] = "layers"
    additive: ClassVar[bool] = False
    search_settings: ClassVar[Mapping[str, Any]] = {
        "supernet.channels": WIDEST,
        "supernet.cells": 1,
    }
    short_settings: ClassVar[Mapping[str, Any]] = {"network.channels": WIDEST}

    def check(self, cells: Mapping[str, Sequence[Edge]]) -> None:  # noqa: D102
        require_names(self, cells, ["widths"])
        if tuple(cells["widths"]) != EDGES:
            raise ValueError(f"edges {tuple(cells['widths'])} must be {EDGES} for {self.name!r}")

    def check_sizes(self, sizes: NetworkSizes) -> None:  # noqa: D102
        super().check_sizes(sizes)
        if sizes.cells != 1:
            raise ValueError(f"cells={sizes.cells} must be 1, since the space has five layers")
        if sizes.channels % len(WIDTHS):
            raise ValueError(f"channels={sizes.channels} must be a multiple of {len(WIDTHS)}")

    def body(self, sizes: NetworkSizes, make_cell: MakeCell) -> nn.Module:  # noqa: D102
        return WidthsSkeleton([sizes.channels] * len(REDUCES), sizes, make_cell)

    def network(  # noqa: D102
        self, cells: Cells, sizes: NetworkSizes, *, auxiliary: bool, large: bool
    ) -> nn.Module:
        chosen = [int(c.operation) * sizes.channels // WIDEST for c in dict(cells)["widths"]]
        return WidthsSkeleton(chosen, sizes, block)

    def write(self, cells: Cells) -> str:  # noqa: D102
        return ":".join(c.operation for c in dict(cells)["widths"])

    def reads(self, text: str) -> bool:  # noqa: D102
        return re.fullmatch(r"\d+(:\d+)+", text) is not None

    def read(self, text: str) -> Cells:  # noqa: D102
        widths = text.split(":")
        require(text, len(widths) == len(EDGES), f"must have {len(EDGES)} widths")
        require(text, all(w in WIDTHS for w in widths), f"has a width other than {WIDTHS}")
        return (("widths", tuple(Choice(w, *e) for w, e in zip(widths, EDGES, strict=True))),)


enter(Widths("nats-sizes"))
