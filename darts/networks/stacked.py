"""NAS-Bench-201's skeleton: one type of cell, stacked in three stages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from darts.networks.in_turn import InTurn
from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import ReLU, ResidualBlock, make_operation
from darts.networks.table import (
    Cells,
    Choice,
    Edge,
    MakeCell,
    NetworkSizes,
    Place,
    Skeleton,
    check_operations,
    enter,
    require,
    require_names,
)


class StackedSkeleton(InTurn):
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
        self.last = nn.Sequential(BatchNorm2d(channels), ReLU())
        self.classifier = nn.Linear(channels, classes)


class DiscreteCell(nn.Module):
    """A NAS-Bench-201 cell: each node is the sum of its incoming edges, the last is the output."""

    name = "cell"
    """Its cell type."""

    def __init__(self, choices: Sequence[Choice], place: Place) -> None:
        super().__init__()
        self.choices = tuple(choices)
        self.place = place
        self.operations = nn.ModuleList()
        for choice in choices:
            stride, outputs = self.geometry(choice)
            inputs = place.inputs[0] if choice.source == 0 else outputs
            made = make_operation(choice.operation, inputs, outputs, stride, True, True)
            self.operations.append(made)

    def geometry(self, choice: Choice) -> tuple[int, int]:
        """Stride of an operation, and the channels that leave it."""
        return self.place.stride if choice.source == 0 else 1, self.place.channels

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        nodes = {0: x}
        for choice, operation in zip(self.choices, self.operations, strict=True):
            y = operation(nodes[choice.source])
            nodes[choice.target] = nodes[choice.target] + y if choice.target in nodes else y
        return nodes[max(nodes)]


@dataclass(frozen=True)
class Stacked(Skeleton):
    """The entry; its text is NAS-Bench-201's."""

    stacked: ClassVar[bool] = True

    def check(self, cells: Mapping[str, Sequence[Edge]]) -> None:  # noqa: D102
        require_names(self, cells, ["cell"])

    def body(self, sizes: NetworkSizes, make_cell: MakeCell) -> nn.Module:  # noqa: D102
        return StackedSkeleton(sizes.channels, sizes.cells, sizes.classes, make_cell, sizes.colours)

    def network(  # noqa: D102
        self, cells: Cells, sizes: NetworkSizes, *, auxiliary: bool, large: bool
    ) -> nn.Module:
        choices = dict(cells)["cell"]
        return self.body(sizes, lambda place: DiscreteCell(choices, place))

    def write(self, cells: Cells) -> str:  # noqa: D102
        nodes: dict[int, list[str]] = {}
        for operation, source, target in dict(cells)["cell"]:
            nodes.setdefault(target, []).append(f"{operation}~{source}|")
        return "+".join("|" + "".join(parts) for _, parts in sorted(nodes.items()))

    def reads(self, text: str) -> bool:  # noqa: D102
        return text.startswith("|")

    def read(self, text: str) -> Cells:  # noqa: D102
        choices = []
        for target, node in enumerate(text.split("+"), start=1):
            if not re.fullmatch(r"\|(?:\w+~\d+\|)+", node):
                raise ValueError(
                    f"genotype {text!r}: {node!r} is not of the form '|operation~source|'"
                )
            edges = [part.split("~") for part in node.strip("|").split("|")]
            # In the official order, whatever the text's: the same edges are the same cell.
            for source, operation in sorted(
                (int(source), operation) for operation, source in edges
            ):
                choices.append(Choice(operation, source, target))
        require(
            text,
            all(c.source < c.target for c in choices),
            "has an edge that leads to an earlier node",
        )
        check_operations(text, choices)
        return (("cell", tuple(choices)),)


enter(Stacked("nb201"))
