"""What a search space is: a table of cells, edges and candidate operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from darts.networks.genotype import KEPT_EDGES, Choice, Genotype
from darts.networks.layers import LAYERS
from darts.networks.module_graph import MOST_VERTICES
from darts.networks.module_graph import OPERATIONS as NODE_OPERATIONS
from darts.networks.operations import OPERATIONS, make_operation
from darts.networks.table import SKELETONS, Edge, Skeleton
from darts.networks.widths import WIDTHS


@dataclass(frozen=True)
class Cell:
    """One type of cell: a directed acyclic graph whose edges carry candidate operations.

    Row e of the cell's weights belongs to ``edges[e]`` and column k to ``candidates[e][k]``.
    Nodes ``0 .. inputs - 1`` are the cell's inputs.
    """

    known: ClassVar[Mapping[str, Any]] = OPERATIONS
    """What a candidate may be."""
    maps: ClassVar[bool] = False
    """Candidates are maps that there are anyway, so that to draw one of them spares nothing."""

    inputs: int
    edges: tuple[Edge, ...]
    candidates: tuple[tuple[str, ...], ...]
    reduction: bool = False
    """Edges that leave an input node have stride 2."""
    normalize_pools: bool = False
    """Pooling is followed by batch normalisation, as in the supernet of DARTS."""
    concatenate: bool = False
    """The output is all inner nodes side by side; otherwise it is the last node."""
    kept: int = 1
    """Candidates of an edge that an architecture has."""

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.candidates):
            raise ValueError(
                f"candidates has {len(self.candidates)} rows for {len(self.edges)} edges; "
                "there must be one row per edge"
            )
        if len({len(row) for row in self.candidates}) != 1:
            raise ValueError("candidates: every edge must have the same number of operations")
        if any(source >= target or target < self.inputs for source, target in self.edges):
            raise ValueError(f"edges: {self.edges} must lead from a node to a later, inner one")
        if not 1 <= self.kept <= self.shape[1]:
            raise ValueError(f"kept={self.kept} must be 1 to {self.shape[1]}, as many candidates")
        for operation in {name for row in self.candidates for name in row}:
            if operation not in self.known:
                raise ValueError(
                    f"candidates: {operation!r} is not one of {', '.join(sorted(self.known))}"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(edges, operations), the shape of the cell's α and β."""
        return len(self.edges), len(self.candidates[0])

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        """The inner nodes, in order."""
        return tuple(sorted({target for _, target in self.edges}))

    def incoming(self, node: int) -> tuple[int, ...]:
        """Indices of the edges that end in ``node``."""
        return tuple(e for e, (_, target) in enumerate(self.edges) if target == node)

    def outgoing(self, node: int) -> tuple[int, ...]:
        """Indices of the edges that leave ``node``."""
        return tuple(e for e, (source, _) in enumerate(self.edges) if source == node)

    def stride(self, edge: int) -> int:
        """Stride of the operations on ``edge``."""
        return 2 if self.reduction and self.edges[edge][0] < self.inputs else 1

    def label(self, edge: int) -> str:
        """What is chosen on ``edge``, in pictures."""
        source, target = self.edges[edge]
        return f"{source} → {target}"

    def operation(self, name: str, inputs: int, outputs: int, stride: int) -> nn.Module:
        """A candidate of the stand-alone network, between maps of so many channels."""
        return make_operation(name, inputs, outputs, stride, True, True)


@dataclass(frozen=True)
class Layers(Cell):
    """Layers of a chain that have equally many candidates, as a table like a cell's.

    ``edges[e]`` is (i, i + 1) for layer i of the chain; see `darts.networks.chain.Chain.groups`.
    """

    known: ClassVar[Mapping[str, Any]] = LAYERS

    def operation(self, name: str, inputs: int, outputs: int, stride: int) -> nn.Module:
        """A candidate of the stand-alone network, between maps of so many channels."""
        return LAYERS[name](inputs, outputs, stride, True, True)


@dataclass(frozen=True)
class LayerWidths(Cell):
    """Layers of a chain whose candidates are widths; see `darts.networks.widths`."""

    known: ClassVar[Mapping[str, Any]] = dict.fromkeys(WIDTHS)


@dataclass(frozen=True)
class NodeOperations(Cell):
    """What the nodes of a cell do; ``edges[e]`` is (e, e + 1) for node e + 1.

    See `darts.networks.nb101`.
    """

    known: ClassVar[Mapping[str, Any]] = dict.fromkeys(NODE_OPERATIONS)

    def label(self, edge: int) -> str:
        """The node."""
        return f"node {self.edges[edge][1]}"


@dataclass(frozen=True)
class Sources(Cell):
    """What node v of a cell reads: ``kept`` of those before it, whose numbers are the candidates.

    The one edge is (v - 1, v).
    """

    known: ClassVar[Mapping[str, Any]] = dict.fromkeys(map(str, range(MOST_VERTICES)))
    maps: ClassVar[bool] = True

    def label(self, edge: int) -> str:
        """The node that reads."""
        return f"{self.edges[edge][1]} reads"


@dataclass(frozen=True)
class Space:
    """A search space: its cell types and the skeleton that they fill.

    ``skeleton`` is a name of `darts.networks.table.SKELETONS`: ``"nb201"`` (three stages of
    stacked cells, named ``"cell"``, with residual blocks between them) or ``"darts"`` (two-input
    cells of four inner nodes, ``"normal"`` and ``"reduce"``, the latter at one and two thirds of
    the depth).
    """

    name: str
    skeleton: str
    cells: Mapping[str, Cell]
    many_candidates: bool = False
    """Edges have all operations of the DARTS space, which leaves memory for a small batch only."""

    def __post_init__(self) -> None:
        if self.skeleton not in SKELETONS:
            names = " or ".join(map(repr, SKELETONS))
            raise ValueError(f"skeleton={self.skeleton!r} must be {names}")
        self.around.check({name: cell.edges for name, cell in self.cells.items()})

    @property
    def around(self) -> Skeleton:
        """The skeleton's entry, which says what the space leaves to it."""
        return SKELETONS[self.skeleton]

    @property
    def stacked(self) -> bool:
        """See `Skeleton.stacked`."""
        return self.around.stacked

    @property
    def leaves_edges_out(self) -> bool:
        """See `Skeleton.leaves_edges_out`."""
        return self.around.leaves_edges_out

    @property
    def keeps_several(self) -> bool:
        """Whether an architecture has several candidates of an edge somewhere."""
        return any(cell.kept > 1 for cell in self.cells.values())

    @property
    def leading(self) -> tuple[str, ...]:
        """The cell types that schedules look at."""
        return self.around.leading or tuple(self.cells)

    @cached_property
    def decisions(self) -> int:
        """Edges that have an operation in the architecture of one cell; the most of any type."""
        return max(
            sum(min(KEPT_EDGES, len(cell.incoming(node))) for node in cell.nodes)
            if self.leaves_edges_out
            else len(cell.edges)
            for cell in self.cells.values()
        )

    def derive(self, weights: Mapping[str, Tensor]) -> Genotype:
        """The discrete architecture of β: the strongest operation of each edge (Eq. 2).

        Where an architecture has several candidates of an edge, these are the strongest.
        In the DARTS spaces ``none`` cannot be chosen, and each node keeps the two incoming edges
        whose strongest operation weighs most (Liu et al., section 2.4). The first of equals wins.

        Args:
            weights: β, one [edges, operations] tensor per cell type.
        """
        self.check(weights)
        rows = {name: weights[name].detach().cpu().tolist() for name in self.cells}
        pick = _strongest_edges if self.leaves_edges_out else _strongest_operations
        return Genotype(
            self.skeleton,
            tuple((name, pick(cell, rows[name])) for name, cell in self.cells.items()),
        )

    def discrete(self, genotype: Genotype) -> dict[str, Tensor]:
        """The β that is ``genotype``: 1 for each chosen operation, 0 elsewhere.

        The supernet with these weights is the pruned network of Fig. 4B.

        Returns:
            Float32 [edges, operations] for each cell type, on the CPU.
        """
        weights = {}
        for name, cell in self.cells.items():
            beta = torch.zeros(cell.shape)
            for operation, *edge in genotype.cell(name):
                row = cell.edges.index((edge[0], edge[1]))
                beta[row, cell.candidates[row].index(operation)] = 1
            weights[name] = beta
        return weights

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless ``weights`` has the shape of this space's β."""
        if set(weights) != set(self.cells):
            raise ValueError(f"weights has cells {sorted(weights)}, must be {sorted(self.cells)}")
        for name, cell in self.cells.items():
            shape = tuple(weights[name].shape)
            if shape != cell.shape:
                raise ValueError(f"weights[{name!r}] has shape {shape}, must be {cell.shape}")


def _strongest_operations(cell: Cell, rows: list[list[float]]) -> tuple[Choice, ...]:
    return tuple(
        Choice(candidates[column], *edge)
        for edge, candidates, row in zip(cell.edges, cell.candidates, rows, strict=True)
        for column in sorted(sorted(range(len(row)), key=lambda k: -row[k])[: cell.kept])
    )


def _strongest_edges(cell: Cell, rows: list[list[float]]) -> tuple[Choice, ...]:
    choices: list[Choice] = []
    for node in cell.nodes:
        best: list[tuple[float, Choice]] = []
        for e in cell.incoming(node):
            weight, operation = max(
                ((w, o) for w, o in zip(rows[e], cell.candidates[e], strict=True) if o != "none"),
                key=lambda pair: pair[0],
            )
            best.append((weight, Choice(operation, *cell.edges[e])))
        best.sort(key=lambda pair: -pair[0])
        choices += [choice for _, choice in best[:KEPT_EDGES]]
    return tuple(choices)
