"""Which cell comes next where time is short, by what finished ones took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from darts.results.run_folder import RunFolder
from darts.study.plan import Cell, Study

START = 30.0
"""Seconds before the end in which no cell is started: its process takes most of them to start."""


def next_cell(study: Study, waiting: Sequence[Cell], left: float) -> Cell:
    """The first cell that can end in the `left` seconds, or else the first.

    That one is saved when the time is over and resumes to the bit, so nothing that it did is lost.
    A cell of a row of which none is finished counts as one that can.
    """
    return next((cell for cell in waiting if _expected(study, cell) <= left), waiting[0])


def _expected(study: Study, cell: Cell) -> float:
    """Seconds to a cell's end: the mean of the finished ones of its row, less what it has had."""
    others = [c for c in study.cells if c.row == cell.row and c.finished]
    return statistics.fmean(map(_spent, others)) - _spent(cell) if others else 0.0


def _spent(cell: Cell) -> float:
    """Seconds of a cell's epochs that are over."""
    folders = [cell.folder, *map(cell.evaluation, cell.evaluations)]
    begun = [RunFolder(folder) for folder in folders if (folder / "log.jsonl").is_file()]
    return sum(float(record["seconds"]) for folder in begun for record in folder.records())
