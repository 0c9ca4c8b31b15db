"""What a cell executes: which edges each branch serves, which maps each node sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from darts.spaces.table import Cell

Live = tuple[tuple[bool, ...], ...]
"""For each edge and candidate: is it computed?"""


@dataclass(frozen=True)
class Term:
    """Candidate ``column`` of ``edge``, one summand of a node."""

    edge: int
    column: int
    operation: str
    source: int


@dataclass(frozen=True)
class Plan:
    """Incoming terms of every inner node, in order; ``none`` is never among them."""

    nodes: Mapping[int, tuple[Term, ...]]

    def outgoing(self, source: int) -> list[Term]:
        """All terms that read ``source``."""
        return [t for terms in self.nodes.values() for t in terms if t.source == source]


@lru_cache(maxsize=4096)
def make_plan(cell: Cell, live: Live | None) -> Plan:
    """The plan of ``cell``; ``live`` None computes every candidate.

    A node that no live path leads on from to the output is left out: its gradient is zero.
    """
    nodes: dict[int, tuple[Term, ...]] = {}
    reaches = set(cell.nodes) if cell.concatenate else {cell.nodes[-1]}
    for node in reversed(cell.nodes):
        terms = (
            tuple(
                Term(edge, column, operation, cell.edges[edge][0])
                for edge in cell.incoming(node)
                for column, operation in enumerate(cell.candidates[edge])
                if operation != "none" and (live is None or live[edge][column])
            )
            if node in reaches
            else ()
        )
        nodes[node] = terms
        reaches.update(term.source for term in terms)
    return Plan({node: nodes[node] for node in cell.nodes})


def counting(weights: Mapping[str, Tensor], negligible: float = 0.0) -> dict[str, Tensor]:
    """Which entries of β count, where β is.

    Those that exceed ``negligible`` times the largest of their edge in magnitude: by default all
    that are not exactly zero. What is not a number counts.
    """
    found = {}
    for name, beta in weights.items():
        size = beta.detach().abs()
        found[name] = ~(size <= negligible * size.amax(-1, keepdim=True))
    return found


def live_operations(weights: Mapping[str, Tensor], negligible: float = 0.0) -> dict[str, Live]:
    """What `counting` says, read once per cell type.

    On a CUDA tensor this waits for the device: do it outside a step.
    """
    counts = counting(weights, negligible)
    return {name: tuple(tuple(row) for row in rows.tolist()) for name, rows in counts.items()}


def rows_of(terms: Sequence[Term], edges: Sequence[int]) -> list[int]:
    """Positions in ``edges`` of the terms' edges."""
    return [edges.index(term.edge) for term in terms]
