"""What a black-box searcher is: it asks for the value of a cell and is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]
"""[..., edges]: the index of the operation on each edge, in the order of the space's table."""
Values = NDArray[np.float64]


class Question(NamedTuple):
    """What a searcher wants to know next."""

    cells: Cells
    """[searches, edges], one cell for each of the independent searches."""
    share: float = 1.0
    """How much of a whole training the answer may cost, in (0, 1]."""


class Searcher(Protocol):
    """Independent searches in lock step, which differ only in what they draw.

    One search trains its networks; thousands at once, as rows of arrays, are what a table of
    accuracies can answer. `ask` and `tell` alternate.
    """

    def ask(self) -> Question:
        """The cells to be valued next."""
        ...

    def tell(self, values: Values) -> None:
        """Take the answer: validation accuracies, [searches]; more is better."""
        ...


MakeSearcher = Callable[[tuple[int, int], int, np.random.Generator], Searcher]
"""(edges, operations), number of searches, source of randomness → searcher."""


def draw(shape: tuple[int, int], generator: np.random.Generator, *sizes: int) -> Cells:
    """Uniformly drawn cells, [*sizes, edges]."""
    edges, operations = shape
    cells: Cells = generator.integers(operations, size=(*sizes, edges))
    return cells


def mutated(
    cells: Cells, edges: NDArray[np.int64], steps: NDArray[np.int64], operations: int
) -> Cells:
    """Each cell with another operation on one edge.

    Args:
        cells: [n, edges].
        edges: [n], the edge that changes.
        steps: [n], from 1 to operations - 1: how far the operation moves along the list, around
            its end, so that a uniform step is a uniform choice of the others.
        operations: their number.
    """
    children: Cells = cells.copy()
    children[np.arange(len(cells)), edges] += steps
    children %= operations
    return children
