"""BANANAS: an ensemble predicts accuracy from a cell's paths, and Thompson sampling asks.

White, Neiswanger & Savani, "BANANAS: Bayesian Optimization with Neural Architectures for Neural
Architecture Search" (AAAI 2021). Read beside it: NASLib's optimizers/discrete/bananas. Ten random
cells; then, ten at a time, of 100 mutations of the two best and 100 random cells those whose draw
from the normal distribution of the ensemble's predictions is greatest (independent Thompson
sampling). NASLib has the mutations alone, whose two neighbourhoods are soon used up here.

In place of networks trained by Adam, each member has one hidden layer that is random and an output
layer fitted by ridge regression, so that many searches run at once; in place of the relative error
of accuracies it fits their ranks. A cell that has been asked about is not asked about again.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from darts.baselines.searcher import Cells, Question, Values, draw, mutated

Floats = NDArray[np.float64]


def routes(edges: int) -> list[list[int]]:
    """The edges of every way from the first node to the last, in the order of nb201's table.

    Edges lead to each node from all before it, 1←0, 2←0, 2←1, ...; where that many edges make no
    such graph, each edge is a way of its own.
    """
    last = int((2 * edges) ** 0.5)
    if last * (last + 1) != 2 * edges:
        return [[edge] for edge in range(edges)]

    def from_node(node: int) -> list[list[int]]:
        if node == last:
            return [[node]]
        return [[node, *way] for to in range(node + 1, last + 1) for way in from_node(to)]

    return [[b * (b - 1) // 2 + a for a, b in pairwise(way)] for way in from_node(0)]


def paths(cells: Cells, operations: int) -> Cells:
    """The number of each way's sequence of operations among all, [..., edges] → [..., ways]."""
    found, start = [], 0
    for way in routes(cells.shape[-1]):
        found.append(start + cells[..., way] @ operations ** np.arange(len(way)))
        start += operations ** len(way)
    return np.stack(found, -1)


class Bananas:
    """See `Searcher`.

    Args:
        shape: (edges, operations) of a cell.
        searches: how many at once.
        generator: source of the draws.
        batch: random cells at the start, and cells asked about from one fit to the next.
        parents: best cells that are mutated.
        candidates: mutations to choose from, and as many random cells.
        members: predictors in the ensemble.
        units: hidden units of each.
        ridge: weight of the squared output weights.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        searches: int,
        generator: np.random.Generator,
        batch: int = 10,
        parents: int = 2,
        candidates: int = 100,
        members: int = 5,
        units: int = 64,
        ridge: float = 1.0,
    ) -> None:
        self._shape, self._generator = shape, generator
        self._batch, self._parents, self._count = batch, parents, candidates
        self._members, self._units, self._ridge = members, units, ridge
        self._cells = np.empty((searches, 0, shape[0]), dtype=np.int64)
        self._values = np.empty((searches, 0))
        self._options = draw(shape, generator, searches, batch)
        self._scores = np.zeros((searches, batch))
        """Of `_options`, which of them is asked about next; -inf: not at all."""

    def ask(self) -> Question:
        """The candidate with the greatest draw."""
        told = self._values.shape[1]
        if told and told % self._batch == 0:
            random = draw(self._shape, self._generator, len(self._values), self._count)
            self._options = np.concatenate([self._mutations(), random], 1)
            self._scores = self._draws()
        rows = np.arange(len(self._scores))
        cells = self._options[rows, self._scores.argmax(1)]
        asked = (self._options == cells[:, None]).all(2)
        self._scores[asked] = -np.inf
        self._cells = np.concatenate([self._cells, cells[:, None]], 1)
        return Question(cells.copy())

    def tell(self, values: Values) -> None:
        """The value of the one that was asked about."""
        self._values = np.concatenate([self._values, values[:, None]], 1)

    def _mutations(self) -> Cells:
        """[searches, candidates, edges], one edge from one of the best each."""
        edges, operations = self._shape
        best = np.argsort(-self._values, axis=1, kind="stable")[:, : self._parents]
        parents = np.take_along_axis(self._cells, best[:, :, None], axis=1)
        each = -(-self._count // self._parents)
        cells = parents.repeat(each, axis=1)[:, : self._count].reshape(-1, edges)
        changed = mutated(
            cells,
            self._generator.integers(edges, size=len(cells)),
            self._generator.integers(1, operations, size=len(cells)),
            operations,
        )
        return changed.reshape(len(self._values), -1, edges)

    def _draws(self) -> Floats:
        """A draw for each candidate, [searches, candidates]; -inf where it is known."""
        operations = self._shape[1]
        known = paths(self._cells, operations)
        asked = paths(self._options, operations)
        ranks = self._values.argsort(1, kind="stable").argsort(1) / self._values.shape[1]
        found = np.stack([self._predicted(known, ranks, asked) for _ in range(self._members)])
        draws: Floats = self._generator.normal(found.mean(0), found.std(0))
        seen = (self._options[:, :, None] == self._cells[:, None]).all(3).any(2)
        draws[seen] = -np.inf
        return draws

    def _predicted(self, known: Cells, ranks: Floats, asked: Cells) -> Floats:
        """What one new member says of `asked`, fitted to a resample of `known`.

        Args:
            known, asked: path numbers, [searches, n, ways] and [searches, m, ways].
            ranks: [searches, n].

        Returns:
            [searches, m].
        """
        edges, operations = self._shape
        size = sum(operations ** len(way) for way in routes(edges))
        weights = self._generator.normal(size=(size, self._units)) / known.shape[2] ** 0.5
        bias = self._generator.normal(size=self._units)

        def hidden(cells: Cells) -> Floats:
            units: Floats = np.maximum(weights[cells].sum(2) + bias, 0.0)
            return units

        again = self._generator.integers(known.shape[1], size=known.shape[:2])
        seen = hidden(np.take_along_axis(known, again[:, :, None], axis=1))
        wanted = np.take_along_axis(ranks, again, axis=1) - 0.5
        square = seen.transpose(0, 2, 1) @ seen + self._ridge * np.eye(self._units)
        out = np.linalg.solve(square, seen.transpose(0, 2, 1) @ wanted[:, :, None])
        said: Floats = (hidden(asked) @ out)[:, :, 0]
        return said
