"""NAS-Bench-101's answers, in a table that its own package writes.

The table is a (gzipped) CSV with the columns of `COLUMNS`, one row a cell: its hash, its network's
parameters, and accuracies in percent and seconds of training, each the mean over the benchmark's
runs of 108 epochs. docs/data.md has the lines that write it.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple, TextIO

from darts.benchmark.reading import read_text
from darts.errors import UserError
from darts.networks.module_graph import ModuleGraph

COLUMNS = ("hash", "params", "valid", "test", "seconds")


class Answer(NamedTuple):
    """What the benchmark knows of a cell."""

    params: int
    valid: float
    """Accuracy in percent, as the next."""
    test: float
    seconds: float


class Table:
    """The benchmark in memory: `table[graph]`, `table.rank(graph)`.

    Args:
        answers: by the cell's hash.
        source: named in messages.
    """

    def __init__(self, answers: dict[str, Answer], source: str = "the table") -> None:
        self.answers = answers
        self.source = source

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Table:
        """Read a table.

        Raises:
            UserError: the file is absent, damaged, or not such a table.
        """
        file = Path(path)
        complaint = (
            f"table={str(file)!r} cannot be read as a NAS-Bench-101 table with the columns "
            f"{', '.join(COLUMNS)}"
        )
        return cls(read_text(file, _answers, complaint), str(file))

    def __getitem__(self, graph: ModuleGraph) -> Answer:
        """The answer for a cell, or for any that is isomorphic to what is left of it when pruned.

        Raises:
            UserError: the table has no such cell.
        """
        try:
            return self.answers[graph.digest()]
        except KeyError:
            raise UserError(
                f"{self.source} has no cell with the hash {graph.digest()}, {graph}."
            ) from None

    def rank(self, graph: ModuleGraph) -> int:
        """The place of a cell among all by test accuracy (1 is the best)."""
        own = self[graph].test
        return sum(answer.test > own for answer in self.answers.values()) + 1


def _answers(stream: TextIO) -> dict[str, Answer]:
    return {
        row["hash"]: Answer(
            int(row["params"]), float(row["valid"]), float(row["test"]), float(row["seconds"])
        )
        for row in csv.DictReader(stream)
    }
