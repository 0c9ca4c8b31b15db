"""Random search: every cell is drawn anew, with replacement (Li & Talwalkar, UAI 2019)."""

from __future__ import annotations

import numpy as np

from darts.baselines.searcher import Question, Values, draw


class RandomSearch:
    """See `Searcher`.

    Args:
        shape: (edges, operations) of a cell.
        searches: how many at once.
        generator: source of the draws.
    """

    def __init__(
        self, shape: tuple[int, int], searches: int, generator: np.random.Generator
    ) -> None:
        self._shape, self._searches, self._generator = shape, searches, generator

    def ask(self) -> Question:
        """A uniformly drawn cell for each search."""
        return Question(draw(self._shape, self._generator, self._searches))

    def tell(self, values: Values) -> None:
        """Nothing is learnt."""
