"""TransNAS-Bench-101's skeleton of its cell-level space: "64-41414".

Duan et al., CVPR 2021. Read: the authors' network as NASLib has it (search_spaces/transbench101,
net_macro.py, cell_micro.py, cell_ops.py). A stem that shrinks images to a fourth; five modules of
cells, of which the first, third and last begin with a cell that halves the resolution and doubles
the channels, by the operations that leave its input; mean and classifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from darts.networks.in_turn import InTurn
from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import ReLUConvNorm
from darts.networks.stacked import DiscreteCell
from darts.networks.table import (
    Cells,
    Choice,
    Edge,
    MakeCell,
    NetworkSizes,
    Place,
    Skeleton,
    enter,
    require,
    require_names,
)

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
"""By the digit that stands for each in an architecture's text."""
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
PREFIX = "64-41414-"
MODULES = (True, False, True, False, True)
"""Whether each module begins with a cell that halves the resolution."""


class TransNASSkeleton(InTurn):
    """Stem, five modules of ``cells`` cells, head."""

    def __init__(self, sizes: NetworkSizes, make_cell: MakeCell) -> None:
        super().__init__()
        channels = sizes.channels
        half = (channels + 1) // 2
        self.stem = nn.Sequential(
            nn.Conv2d(sizes.colours, half, 3, stride=2, padding=1, bias=False),
            BatchNorm2d(half),
            ReLUConvNorm(half, channels, 3, 2, True, True),
        )
        self.cells = nn.ModuleList()
        for reduces in MODULES:
            for place in range(sizes.cells):
                inputs, stride = channels, 1
                if reduces and place == 0:
                    channels, stride = 2 * channels, 2
                self.cells.append(make_cell(Place("cell", (inputs,), channels, stride=stride)))
        self.last = nn.Identity()
        self.classifier = nn.Linear(channels, sizes.classes)


@dataclass(frozen=True)
class TransNAS(Skeleton):
    """The entry; its text is the benchmark's, such as ``64-41414-3_33_333``, whatever C is."""

    stacked: ClassVar[bool] = True
    large_images: ClassVar[bool] = True
    search_settings: ClassVar[Mapping[str, object]] = {"supernet.cells": 2}
    short_settings: ClassVar[Mapping[str, object]] = {"network.cells": 2}

    def check(self, cells: Mapping[str, Sequence[Edge]]) -> None:  # noqa: D102
        require_names(self, cells, ["cell"])
        if tuple(cells["cell"]) != EDGES:
            raise ValueError(f"edges {tuple(cells['cell'])} must be {EDGES} for {self.name!r}")

    def body(self, sizes: NetworkSizes, make_cell: MakeCell) -> nn.Module:  # noqa: D102
        return TransNASSkeleton(sizes, make_cell)

    def network(  # noqa: D102
        self, cells: Cells, sizes: NetworkSizes, *, auxiliary: bool, large: bool
    ) -> nn.Module:
        choices = dict(cells)["cell"]
        return self.body(sizes, lambda place: DiscreteCell(choices, place))

    def write(self, cells: Cells) -> str:  # noqa: D102
        digits = "".join(str(OPERATIONS.index(c.operation)) for c in dict(cells)["cell"])
        return f"{PREFIX}{digits[0]}_{digits[1:3]}_{digits[3:]}"

    def reads(self, text: str) -> bool:  # noqa: D102
        return text.startswith(PREFIX)

    def read(self, text: str) -> Cells:  # noqa: D102
        digits = re.fullmatch(r"([0-3])_([0-3]{2})_([0-3]{3})", text.removeprefix(PREFIX))
        require(text, digits is not None, f"is not of the form '{PREFIX}3_33_333', digits 0 to 3")
        assert digits
        operations = (OPERATIONS[int(digit)] for digit in "".join(digits.groups()))
        choices = (Choice(o, *edge) for o, edge in zip(operations, EDGES, strict=True))
        return (("cell", tuple(choices)),)


enter(TransNAS("transnas"))
