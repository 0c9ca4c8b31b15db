"""Local search: value all neighbours, move to the best, start anew where none is better.

White, Nolen & Savani, "Exploring the Loss Landscape in Neural Architecture Search" (UAI 2021),
Algorithm 1. Neighbours differ in the operation of one edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from darts.baselines.searcher import Question, Values, draw, mutated


class LocalSearch:
    """See `Searcher`.

    After a move along an edge the other operations of that edge are known from before, and not
    asked about again: a cell of NAS-Bench-201 has 24 neighbours, of which 20 then are new.

    Args:
        shape: (edges, operations) of a cell.
        searches: how many at once.
        generator: source of the starts and of the neighbours' order.
    """

    def __init__(
        self, shape: tuple[int, int], searches: int, generator: np.random.Generator
    ) -> None:
        self._shape, self._generator = shape, generator
        edges, operations = shape
        # Every (edge, step) is one neighbour.
        self._edges, self._steps = (
            part.ravel()
            for part in np.meshgrid(np.arange(edges), np.arange(1, operations), indexing="ij")
        )
        self._cells = draw(shape, generator, searches)
        self._values = np.full(searches, -np.inf)
        self._best_cells = self._cells.copy()
        """The best cell of the neighbourhood so far; its centre where none is better."""
        self._best_values = self._values.copy()
        self._best_edges = np.full(searches, -1)
        self._order = np.zeros((searches, len(self._edges)), dtype=np.int64)
        self._known = np.zeros(searches, dtype=np.int64)
        """How many of `_order`, at its end, are not asked about."""
        self._position = np.full(searches, -1)
        """Place in `_order` of the neighbour asked about; -1: the start itself is."""
        self._asked, self._asked_edges = self._cells, self._best_edges

    def ask(self) -> Question:
        """A neighbour, or a start."""
        at = np.maximum(self._position, 0)
        move = self._order[np.arange(len(at)), at]
        neighbours = mutated(self._cells, self._edges[move], self._steps[move], self._shape[1])
        starts = self._position < 0
        self._asked = np.where(starts[:, None], self._cells, neighbours)
        self._asked_edges = np.where(starts, -1, self._edges[move])
        return Question(self._asked.copy())

    def tell(self, values: Values) -> None:
        """Keep what is better; at the end of a neighbourhood move, or start anew."""
        better = values > self._best_values
        self._best_cells[better] = self._asked[better]
        self._best_values[better] = values[better]
        self._best_edges[better] = self._asked_edges[better]
        starts = self._position < 0
        self._values[starts] = values[starts]
        self._position += 1
        ended = self._position >= self._order.shape[1] - self._known
        moves = ended & (self._best_values > self._values) & ~starts
        self._begin(np.flatnonzero(starts | moves))
        self._restart(np.flatnonzero(ended & ~moves & ~starts))

    def _begin(self, rows: NDArray[np.int64]) -> None:
        """Make the best cell the centre of a new neighbourhood, in a random order."""
        if not len(rows):
            return
        self._cells[rows], self._values[rows] = self._best_cells[rows], self._best_values[rows]
        keys = self._generator.random((len(rows), len(self._edges)))
        known = self._edges[None] == self._best_edges[rows, None]
        self._order[rows] = (keys + known).argsort(1)
        self._known[rows] = known.sum(1)
        self._position[rows] = 0

    def _restart(self, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        self._cells[rows] = draw(self._shape, self._generator, len(rows))
        self._best_cells[rows] = self._cells[rows]
        self._values[rows] = self._best_values[rows] = -np.inf
        self._best_edges[rows] = self._position[rows] = -1
