"""Searches on the benchmark's table: the anytime curve, thousands of searches at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darts.baselines.searcher import Cells, MakeSearcher
from darts.benchmark.nb201 import Table
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.spaces.nb201 import NB201

CELL = NB201.cells["cell"]

MEAN_SECONDS = 200 * 9.14
"""Seconds of a network's 200 epochs on CIFAR-10's training half: 9.14 s an epoch is the mean that
github.com/Mirofil/SOTL_NAS (nasbench.py) took of the benchmark's own records, 15,000 networks. The
compact table has no times, so that every network costs the mean."""


class Answers:
    """The table's accuracies as arrays, by the number of a cell.

    Args:
        table: the benchmark.
        dataset: one of `darts.benchmark.nb201.DATASETS`.
    """

    def __init__(self, table: Table, dataset: str) -> None:
        self._radix = CELL.shape[1] ** np.arange(CELL.shape[0])
        where = self.numbers(np.array([encoded(row.arch) for row in table.rows]))
        self.valid = np.empty(len(where))
        """Validation accuracy in percent, [cells]."""
        self.test = np.empty(len(where))
        """Test accuracy in percent, [cells]."""
        self.valid[where] = [row.accuracy(dataset, "valid") for row in table.rows]
        self.test[where] = [row.accuracy(dataset, "test") for row in table.rows]

    def numbers(self, cells: Cells) -> NDArray[np.int64]:
        """The place of each of `cells`, [..., edges], in the arrays."""
        numbers: NDArray[np.int64] = cells @ self._radix
        return numbers


def encoded(arch: str) -> list[int]:
    """The index of the operation on each edge of an architecture string."""
    choices = Genotype.parse(arch).cell("cell")
    return [
        row.index(choice.operation) for row, choice in zip(CELL.candidates, choices, strict=True)
    ]


@dataclass(frozen=True)
class Curves:
    """What searches would have given, had they stopped after 1, 2, ... networks."""

    test: NDArray[np.float64]
    """[searches, networks]: test accuracy in percent of the best by validation so far."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the searches, [networks]."""
        mean: NDArray[np.float64] = self.test.mean(0)
        return mean

    def band(self, low: float = 10, high: float = 90) -> NDArray[np.float64]:
        """Two percentiles over the searches, [2, networks]."""
        band: NDArray[np.float64] = np.percentile(self.test, [low, high], axis=0)
        return band


def simulate(
    answers: Answers, make: MakeSearcher, *, networks: int, searches: int, seed: int = 0
) -> Curves:
    """Run `searches` independent searches of `networks` trained networks each.

    A cell that a search asks about again costs as much as a new one.

    Raises:
        UserError: a count is below 1, or the searcher needs shorter trainings, which the table
            of 200-epoch results does not have.
    """
    for name, value in (("networks", networks), ("searches", searches)):
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1.")
    searcher = make(CELL.shape, searches, np.random.default_rng(seed))
    asked = np.empty((networks, searches), dtype=np.int64)
    for step in range(networks):
        question = searcher.ask()
        if question.share != 1:
            raise UserError(
                "successive halving needs accuracies after fewer epochs, and the table has those "
                "after 200 alone; `python -m darts blackbox` runs it on real training."
            )
        asked[step] = answers.numbers(question.cells)
        searcher.tell(answers.valid[asked[step]])
    return Curves(answers.test[best_so_far(asked, answers.valid)].T)


def best_so_far(asked: NDArray[np.int64], valid: NDArray[np.float64]) -> NDArray[np.int64]:
    """The cell of the greatest `valid`, the first of equals, up to each row of `asked`.

    Args:
        asked: numbers of cells, [steps, searches].
        valid: a value for each cell.

    Returns:
        Numbers of cells, [steps, searches].
    """
    values = valid[asked]
    best = np.maximum.accumulate(values, axis=0)
    new = np.ones_like(values, dtype=bool)
    new[1:] = values[1:] > best[:-1]
    steps = np.where(new, np.arange(len(asked))[:, None], 0)
    cells: NDArray[np.int64] = np.take_along_axis(
        asked, np.maximum.accumulate(steps, axis=0), axis=0
    )
    return cells
