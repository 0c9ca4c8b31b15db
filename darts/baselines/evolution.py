"""Regularised evolution: the oldest dies (Real et al., AAAI 2019, Algorithm 1)."""

from __future__ import annotations

import numpy as np

from darts.baselines.searcher import Question, Values, draw, mutated


class RegularizedEvolution:
    """See `Searcher`.

    A child is the best of a sample, drawn with replacement, with another operation on one edge; it
    takes the place of the oldest. Population 10 and sample 3 are those of NATS-Bench's own runs
    (AutoDL-Projects, exps/NATS-algos/regularized_ea.py).

    Args:
        shape: (edges, operations) of a cell.
        searches: how many at once.
        generator: source of the draws.
        population: cells alive.
        sample: cells that compete to be the parent.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        searches: int,
        generator: np.random.Generator,
        population: int = 10,
        sample: int = 3,
    ) -> None:
        self._shape, self._generator, self._sample = shape, generator, sample
        self._cells = draw(shape, generator, searches, population)
        self._values = np.full((searches, population), -np.inf)
        self._told = 0

    def ask(self) -> Question:
        """One of the first population, then a child; its place is the oldest's."""
        searches, population = self._values.shape
        place = self._told % population
        if self._told >= population:
            rows = np.arange(searches)
            sample = self._generator.integers(population, size=(searches, self._sample))
            best = self._values[rows[:, None], sample].argmax(1)
            edges, operations = self._shape
            self._cells[:, place] = mutated(
                self._cells[rows, sample[rows, best]],
                self._generator.integers(edges, size=searches),
                self._generator.integers(1, operations, size=searches),
                operations,
            )
        return Question(self._cells[:, place].copy())

    def tell(self, values: Values) -> None:
        """The value of the one that was asked about."""
        self._values[:, self._told % self._values.shape[1]] = values
        self._told += 1
