"""Successive halving (Jamieson & Talwalkar, AISTATS 2016), the core of Hyperband and BOHB.

Nine random cells get a ninth of a training each, the best three a third, the best one a whole;
then nine new ones. A longer training starts from new weights, since its learning rate falls more
slowly; a rung costs as much as any other.
"""

from __future__ import annotations

import numpy as np

from darts.baselines.searcher import Question, Values, draw


class SuccessiveHalving:
    """See `Searcher`.

    Args:
        shape: (edges, operations) of a cell.
        searches: how many at once.
        generator: source of the draws.
        keep: one in how many goes on to the next rung (BOHB's η, 3 there too).
        rungs: lengths of training, each `keep` times the one before, the last a whole.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        searches: int,
        generator: np.random.Generator,
        keep: int = 3,
        rungs: int = 3,
    ) -> None:
        self._shape, self._searches, self._generator = shape, searches, generator
        self._keep, self._rungs = keep, rungs
        self._start()

    def _start(self) -> None:
        self._rung = 0
        count = self._keep ** (self._rungs - 1)
        self._cells = draw(self._shape, self._generator, self._searches, count)
        self._values: list[Values] = []

    def ask(self) -> Question:
        """The next cell of the rung."""
        share = self._keep ** (self._rung - self._rungs + 1.0)
        return Question(self._cells[:, len(self._values)].copy(), share)

    def tell(self, values: Values) -> None:
        """At the end of a rung the best go on."""
        self._values.append(values)
        count = self._cells.shape[1]
        if len(self._values) < count:
            return
        if count == 1:
            self._start()
            return
        best = np.argsort(-np.stack(self._values, 1), axis=1, kind="stable")
        kept = best[:, : count // self._keep, None]
        self._cells = np.take_along_axis(self._cells, kept, axis=1)
        self._values = []
        self._rung += 1
