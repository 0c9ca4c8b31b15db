"""Edges that are decided during the search (not a method by itself)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.methods.base import Method, Weights
from darts.networks.genotype import KEPT_EDGES

OPEN, REMOVED = -1, -2
"""An undecided edge; an edge that is left out. Other numbers are the index of the operation."""


class Fixing(Method):
    """Keeps which edges are decided, and gives them a β of exactly 1 and 0."""

    settles_on_one = True
    kept: ClassVar[tuple[str, ...]] = ("fixed",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.fixed = {name: [OPEN] * len(cell.edges) for name, cell in self.space.cells.items()}

    def undecided(self, cell: str) -> list[int]:
        """Edges that are still open."""
        return [edge for edge, choice in enumerate(self.fixed[cell]) if choice == OPEN]

    def decided(self, cell: str, beta: Tensor) -> Tensor:
        """β with the decided edges' rows replaced."""
        rows = list(beta.unbind())
        for edge, choice in enumerate(self.fixed[cell]):
            if choice != OPEN:
                rows[edge] = torch.zeros_like(rows[edge])
            if choice >= 0:
                rows[edge][choice] = 1.0
        return torch.stack(rows)

    def probabilities(self) -> Weights:
        """Each edge's distribution, decided ones included."""
        return {cell: self.decided(cell, beta) for cell, beta in super().probabilities().items()}

    @property
    def alpha_moves(self) -> bool:
        """Not any more once everything is decided."""
        return super().alpha_moves and any(self.undecided(cell) for cell in self.fixed)

    def remove_surplus(self, cell: str) -> None:
        """Leave out the open edges of nodes that have all the edges a genotype keeps."""
        table = self.space.cells[cell]
        for node in table.nodes if self.space.leaves_edges_out else ():
            edges = table.incoming(node)
            if sum(self.fixed[cell][edge] >= 0 for edge in edges) == KEPT_EDGES:
                for edge in edges:
                    if self.fixed[cell][edge] == OPEN:
                        self.fixed[cell][edge] = REMOVED
