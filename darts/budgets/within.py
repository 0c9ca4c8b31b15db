"""The best architecture under bounds on its cost, exactly: an integer program, solved by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from torch import Tensor

from darts.budgets.costs import Costs
from darts.networks.genotype import KEPT_EDGES, Choice, Genotype
from darts.spaces import Space


class Bound(NamedTuple):
    """The most that an architecture may cost."""

    costs: Costs
    limit: float
    """Positive."""


class _Option(NamedTuple):
    """An operation on an edge, which is in the architecture or not."""

    cell: str
    edge: int
    column: int


def best_within(
    space: Space, values: Mapping[str, Tensor], bounds: Sequence[Bound]
) -> Genotype | None:
    """The architecture with the largest sum of values among those that meet every bound.

    What an architecture is, is the space's: one operation an edge, or, where edges are left out,
    two edges a node with an operation other than `none` (`Space.derive`).

    Args:
        space: of the architectures.
        values: cell type → [edges, operations], finite.
        bounds: each on a cost that is a sum over edges.

    Returns:
        None where no architecture meets them all.
    """
    few = space.leaves_edges_out
    options = [
        _Option(cell, edge, column)
        for cell, table in space.cells.items()
        for edge, row in enumerate(table.candidates)
        for column, name in enumerate(row)
        if not (few and name == "none")
    ]
    # An edge has at most one operation, and a group of edges as many as are kept.
    edges: dict[object, list[int]] = {}
    groups: dict[object, list[int]] = {}
    for place, (cell, edge, _) in enumerate(options):
        edges.setdefault((cell, edge), []).append(place)
        node = space.cells[cell].edges[edge][1]
        groups.setdefault((cell, node if few else edge), []).append(place)
    exact = [
        min(KEPT_EDGES, len({options[place].edge for place in group})) if few else 1
        for group in groups.values()
    ]
    rules = [
        LinearConstraint(_incidence(groups.values(), len(options)), exact, exact),
        LinearConstraint(_incidence(edges.values(), len(options)), 0, 1),
    ]
    aim = np.array([float(values[o.cell][o.edge, o.column]) for o in options])
    # The solver may be past a bound by a rounding of its own; then it is asked for a little less.
    for share in (1.0, 1 - 1e-7, 1 - 1e-6, 1 - 1e-5):
        limits = [
            LinearConstraint(
                np.array([float(costs.edges[o.cell][o.edge, o.column]) for o in options]) / limit,
                -np.inf,
                share - costs.constant / limit,
            )
            for costs, limit in bounds
        ]
        found = milp(
            -aim,
            integrality=np.ones(len(options)),
            bounds=Bounds(0, 1),
            constraints=[*rules, *limits],
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        genotype = _genotype(space, [o for o, x in zip(options, found.x, strict=True) if x > 0.5])
        if all(costs.of(space, genotype) <= limit for costs, limit in bounds):
            return genotype
    return None


def _incidence(groups: Iterable[Sequence[int]], columns: int) -> coo_array:
    """A row a group, with ones at its members."""
    pairs = [(row, column) for row, group in enumerate(groups) for column in group]
    rows, places = zip(*pairs, strict=True)
    return coo_array((np.ones(len(pairs)), (rows, places)), shape=(rows[-1] + 1, columns))


def _genotype(space: Space, chosen: Sequence[_Option]) -> Genotype:
    cells: dict[str, list[Choice]] = {cell: [] for cell in space.cells}
    for cell, edge, column in chosen:
        table = space.cells[cell]
        cells[cell].append(Choice(table.candidates[edge][column], *table.edges[edge]))
    return Genotype(space.skeleton, tuple((cell, tuple(c)) for cell, c in cells.items()))


def cheapest(space: Space, costs: Costs) -> Genotype:
    """The architecture that costs least."""
    return _found(best_within(space, {cell: -c for cell, c in costs.edges.items()}, ()))


def dearest(space: Space, costs: Costs) -> Genotype:
    """The architecture that costs most."""
    return _found(best_within(space, costs.edges, ()))


def _found(genotype: Genotype | None) -> Genotype:
    assert genotype is not None, "without bounds there is always one"
    return genotype


def preferences(scores: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """log β, whose sum over an architecture's edges is what the best one within bounds is by.

    Differences of log β are those of α over the temperature. An operation whose β is lost in
    rounding comes after all that have one, and among its like in the order of α.

    Args:
        scores: cell type → β, [edges, operations], as `Method.scores()` gives it.
        logits: cell type → α of the same shape.
    """
    least = torch.finfo(torch.float32).tiny
    found = {}
    for cell, beta in scores.items():
        alpha = logits[cell].detach().double().cpu()
        lost = math.log(least) - (alpha.amax(-1, keepdim=True) - alpha)
        beta = beta.detach().double().cpu()
        found[cell] = torch.where(beta > least, beta.clamp(min=least).log(), lost)
    return found
