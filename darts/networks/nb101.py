"""NAS-Bench-101's skeleton: one type of cell, whose nodes carry the operations, in three stacks.

Read: google-research/nasbench (lib/model_builder.py, lib/base_ops.py), and for the supernet
automl/nasbench-1shot1 (optimizers/darts/model_search.py). A cell's input is projected for each
vertex that reads it; vertices that the output reads lie side by side in it. Between stacks a 2x2
maximum halves the resolution, and channels double.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from darts.networks.in_turn import InTurn
from darts.networks.module_graph import (
    INPUT,
    MOST_VERTICES,
    OUTPUT,
    ModuleGraph,
)
from darts.networks.operations import ConvNormReLU, ReLUConvNorm
from darts.networks.table import (
    Cells,
    Choice,
    Edge,
    MakeCell,
    NetworkSizes,
    NodesPlace,
    Skeleton,
    enter,
)

NODES = "operations"
"""The cell type of the nodes' operations; `reads` names the others."""


def reads(vertex: int, last: int) -> str:
    """The cell type that says what a vertex reads, of a cell with the output ``last``."""
    return OUTPUT if vertex == last else f"inputs-{vertex}"


def make_node_operation(name: str, channels: int, track: bool) -> nn.Module:
    """What a node does, as it does it in networks and in the supernet."""
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, 1, 1)
    kernel = {"conv3x3-bn-relu": 3, "conv1x1-bn-relu": 1}[name]
    return ConvNormReLU(channels, channels, kernel, 1, True, track)


class NB101Skeleton(InTurn):
    """Stem, three stacks of ``cells`` cells, head.

    A cell says by ``outputs`` how many channels leave it. In the supernet they are all its nodes'
    side by side, and a 1x1 convolution before the head makes C of them again.
    """

    def __init__(self, sizes: NetworkSizes, make_cell: MakeCell) -> None:
        super().__init__()
        entering = channels = sizes.channels
        self.stem = ConvNormReLU(sizes.colours, channels, 3, 1, True, True)
        self.cells = nn.ModuleList()
        for stack in range(3):
            if stack:
                self.cells.append(nn.MaxPool2d(2, 2, ceil_mode=True))
                channels *= 2
            for _ in range(sizes.cells):
                cell: Any = make_cell(NodesPlace(entering, channels))
                self.cells.append(cell)
                entering = cell.outputs
        self.last: nn.Module = (
            nn.Identity()
            if entering == channels
            else ReLUConvNorm(entering, channels, 1, 1, False, True)
        )
        self.classifier = nn.Linear(channels, sizes.classes)


class ModuleCell(nn.Module):
    """The cell of a pruned graph, in the network that was found.

    Raises ValueError where there are fewer channels than nodes that share them.
    """

    def __init__(self, graph: ModuleGraph, place: NodesPlace) -> None:
        super().__init__()
        self.graph = graph
        self.outputs = place.channels
        self.widths = graph.widths(place.channels)
        self.projections = nn.ModuleDict(
            {
                str(v): ConvNormReLU(place.inputs, self.widths[v], 1, 1, True, True)
                for v in graph.targets(0)
            }
        )
        self.operations = nn.ModuleList(
            make_node_operation(graph.operations[v], self.widths[v], True)
            for v in range(1, graph.last)
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        maps: dict[int, Tensor] = {}
        for vertex, operation in enumerate(self.operations, start=1):
            # Where the output's channels do not go evenly, a source may have one more.
            parts = [maps[s][:, : self.widths[vertex]] for s in self.graph.sources(vertex) if s]
            parts += self._projected(x, vertex)
            maps[vertex] = operation(sum(parts[1:], parts[0]))
        beside = [maps[s] for s in self.graph.sources(self.graph.last) if s]
        parts = [torch.cat(beside, 1)] if beside else []
        parts += self._projected(x, self.graph.last)
        return sum(parts[1:], parts[0])

    def _projected(self, x: Tensor, vertex: int) -> list[Tensor]:
        """The input as a vertex reads it, if it does."""
        return [p(x) for key, p in self.projections.items() if key == str(vertex)]


@dataclass(frozen=True)
class NB101(Skeleton):
    """The entry; its text is the matrix and operations of the benchmark's ModelSpec, as JSON.

    The nodes' operations are the cell type "operations", an edge (v - 1, v) for vertex v. What a
    vertex reads is a cell type of its own, "inputs-V" or "output", whose one edge is (v - 1, v) and
    whose candidates are the numbers of those before it. One that reads all of them has none.
    """

    nodes: ClassVar[bool] = True
    unit: ClassVar[str] = "of the cell"
    additive: ClassVar[bool] = False
    search_settings: ClassVar[Mapping[str, Any]] = {
        "supernet.cells": 3,
        "weights.nesterov": False,
        "weights.weight_decay": 3e-4,
        "arch.first": True,
        "data.batch_size": 96,
    }
    short_settings: ClassVar[Mapping[str, Any]] = {"network.channels": 128, "network.cells": 3}

    def check(self, cells: Mapping[str, Sequence[Edge]]) -> None:  # noqa: D102
        last = len(cells.get(NODES, ())) + 1
        edges = {NODES: [(v - 1, v) for v in range(1, last)]}
        edges |= {reads(v, last): [(v - 1, v)] for v in range(2, last + 1)}
        known = [name for name in edges if name in cells]
        if (
            last >= MOST_VERTICES
            or NODES not in cells
            or list(cells) != known
            or any(list(cells[name]) != edges[name] for name in known)
        ):
            raise ValueError(
                f"cells {list(cells)} must be {NODES!r} with the edges (v - 1, v) of up to "
                f"{MOST_VERTICES - 2} nodes v, then those of {', '.join(list(edges)[1:])} that "
                f"have a choice, each with its edge (v - 1, v), for {self.name!r}"
            )

    def check_sizes(self, sizes: NetworkSizes) -> None:  # noqa: D102
        super().check_sizes(sizes)
        if sizes.channels < MOST_VERTICES - 2:
            raise ValueError(
                f"channels={sizes.channels} must be at least {MOST_VERTICES - 2}, since so many "
                "nodes may share them"
            )

    def body(self, sizes: NetworkSizes, make_cell: MakeCell) -> nn.Module:  # noqa: D102
        return NB101Skeleton(sizes, make_cell)

    def network(  # noqa: D102
        self, cells: Cells, sizes: NetworkSizes, *, auxiliary: bool, large: bool
    ) -> nn.Module:
        graph = to_graph(cells).pruned()
        return NB101Skeleton(sizes, lambda place: ModuleCell(graph, place))

    def write(self, cells: Cells) -> str:  # noqa: D102
        return str(to_graph(cells))

    def reads(self, text: str) -> bool:  # noqa: D102
        return text.startswith("{")

    def read(self, text: str) -> Cells:  # noqa: D102
        return to_cells(ModuleGraph.parse(text))


def to_graph(cells: Cells) -> ModuleGraph:
    """The graph of an architecture."""
    table = dict(cells)
    operations = (INPUT, *(c.operation for c in table[NODES]), OUTPUT)
    last = len(operations) - 1
    sources = [
        {int(c.operation) for c in table[reads(v, last)]}
        if reads(v, last) in table
        else set(range(v))
        for v in range(last + 1)
    ]
    matrix = tuple(tuple(int(s in of) for of in sources) for s in range(last + 1))
    return ModuleGraph(matrix, operations)


def to_cells(graph: ModuleGraph) -> Cells:
    """The architecture of a graph."""
    nodes = tuple(Choice(o, v - 1, v) for v, o in enumerate(graph.operations) if 0 < v < graph.last)
    cells = [(NODES, nodes)]
    for v in range(1, graph.last + 1):
        sources = graph.sources(v)
        if len(sources) < v:
            choices = tuple(Choice(str(s), v - 1, v) for s in sources)
            cells.append((reads(v, graph.last), choices))
    return tuple(cells)


enter(NB101("nb101"))
