"""What each operation of a space costs in the network that is built of an architecture.

A cost is a constant (stem, head, reductions, the cells' own convolutions) plus a sum over edges, so
that any architecture's is known from one table. Parameters and multiply-adds are counted, one
operation at one shape at a time, on the network's own modules: the sum is the network's count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from darts.networks.genotype import Choice, Genotype
from darts.networks.network import build_network
from darts.networks.size import multiply_adds, parameters
from darts.spaces import Space


@dataclass(frozen=True)
class Sizes:
    """Of the stand-alone network; see `darts.build_network`."""

    channels: int
    cells: int
    classes: int
    shape: tuple[int, int, int]
    """Of an image: (colours, height, width)."""

    def build(self, genotype: Genotype) -> nn.Module:
        """The network, in evaluation mode."""
        return build_network(
            genotype,
            channels=self.channels,
            cells=self.cells,
            classes=self.classes,
            colours=self.shape[0],
        ).eval()


class Visit(NamedTuple):
    """The map that an operation on an edge is given, somewhere in the network."""

    cell: str
    edge: int
    shape: tuple[int, int, int]
    """(channels, height, width)."""
    stride: int
    outputs: int
    """Channels that leave."""

    def operation(self, space: Space, name: str) -> nn.Module:
        """The candidate called `name` at this shape, in evaluation mode."""
        table = space.cells[self.cell]
        return table.operation(name, self.shape[0], self.outputs, self.stride).eval()


@dataclass(frozen=True)
class Costs:
    """One kind of cost of every architecture of a space."""

    constant: float
    """Of everything but the operations on edges."""
    edges: Mapping[str, Tensor]
    """Cell type → float64 [edges, operations]: of an operation on an edge, in all its cells."""

    def of(self, space: Space, genotype: Genotype) -> float:
        """The whole network's."""
        chosen = space.discrete(genotype)
        return self.constant + sum(
            float((costs * chosen[cell].double()).sum()) for cell, costs in self.edges.items()
        )


class Hollow(nn.Module):
    """In the place of an operation: passes its map on, at the output's size, for nothing."""

    def __init__(self, stride: int, outputs: int) -> None:
        super().__init__()
        self.stride = stride
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = x[:, :, :: self.stride, :: self.stride]
        return y if y.shape[1] == self.outputs else y[:, :1].expand(-1, self.outputs, -1, -1)


def hollow(space: Space, genotype: Genotype, sizes: Sizes) -> nn.Module:
    """The network of `genotype` without its operations, which are all that an edge costs."""
    net = sizes.build(genotype)
    for cell, _ in _cells(space, net):
        cell.operations = nn.ModuleList(Hollow(*cell.geometry(c)) for c in cell.choices)
    return net


def _cells(space: Space, net: nn.Module) -> list[tuple[Any, Any]]:
    """The cells of a stand-alone network, each with its table."""
    cells: Any = net.cells
    return [(cell, space.cells[cell.name]) for cell in cells if hasattr(cell, "choices")]


def visits(space: Space, sizes: Sizes) -> Counter[Visit]:
    """Every map that enters an edge's operations, and how many cells have it."""
    every_edge = Genotype(
        space.skeleton,
        tuple(
            (name, tuple(Choice(row[0], *e) for row, e in zip(t.candidates, t.edges, strict=True)))
            for name, t in space.cells.items()
        ),
    )
    found: Counter[Visit] = Counter()

    def note(cell: str, edge: int, module: Hollow, maps: tuple[Tensor]) -> None:
        channels, height, width = maps[0].shape[1:]
        shape = channels, height, width
        found[Visit(cell, edge, shape, module.stride, module.outputs)] += 1

    with torch.device("meta"), torch.no_grad():
        net = hollow(space, every_edge, sizes)
        for cell, table in _cells(space, net):
            for choice, place in zip(cell.choices, cell.operations, strict=True):
                edge = table.edges.index((choice.source, choice.target))
                place.register_forward_pre_hook(partial(note, cell.name, edge))
        net(torch.empty(1, *sizes.shape))
    return found


def tabulate(space: Space, sizes: Sizes, constant: float, price: Any) -> Costs:
    """Costs from the price of an operation (name) at a `Visit`, asked once for each shape."""
    edges = {
        name: torch.zeros(cell.shape, dtype=torch.float64) for name, cell in space.cells.items()
    }
    known: dict[Any, float] = {}
    for visit, times in visits(space, sizes).items():
        for column, name in enumerate(space.cells[visit.cell].candidates[visit.edge]):
            key = name, visit.shape, visit.stride, visit.outputs
            if key not in known:
                known[key] = price(name, visit)
            edges[visit.cell][visit.edge, column] += times * known[key]
    return Costs(constant, edges)


MEASURES = {"params": parameters, "macs": multiply_adds}
"""What is counted on a network, by the kind of cost."""


def count(space: Space, sizes: Sizes, kind: str) -> Costs:
    """Parameters ("params") or multiply-adds ("macs") of every architecture, exactly.

    They are those that `python -m darts evaluate` prints for the network of these sizes.
    """

    def counted(net: nn.Module, shape: tuple[int, ...]) -> int:
        with torch.no_grad():
            return int(MEASURES[kind](net, torch.empty(1, *shape)))

    def price(name: str, visit: Visit) -> int:
        with torch.device("meta"):
            return counted(visit.operation(space, name), visit.shape)

    some = space.derive({name: torch.ones(cell.shape) for name, cell in space.cells.items()})
    with torch.device("meta"):
        constant = counted(hollow(space, some, sizes), sizes.shape)
    return tabulate(space, sizes, constant, price)
