"""The best architecture under bounds on its cost, exactly: an integer program, solved by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads its `optimize`, which takes a while, where that is used
import torch
from torch import Tensor

from darts.budgets.costs import Costs
from darts.networks.genotype import KEPT_EDGES, Choice, Genotype
from darts.spaces import Space

Array = np.ndarray[Any, np.dtype[np.float64]]


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
    two edges a node with an operation other than `none` (`Space.derive`). One whose output does not
    depend on its input, because of `none`, is not taken.

    Args:
        space: of the architectures.
        values: cell type → [edges, operations], finite.
        bounds: each on a cost that is a sum over edges.

    Returns:
        None where no architecture meets them all.
    """
    options = [
        _Option(cell, edge, column)
        for cell, table in space.cells.items()
        for edge, row in enumerate(table.candidates)
        for column, name in enumerate(row)
        if not (space.leaves_edges_out and name == "none")
    ]
    flows = [(cell, edge) for cell, t in space.cells.items() for edge in range(len(t.edges))]
    rules = [*_choice(space, options, len(flows)), _path(space, options, flows)]

    def row(table: Mapping[str, Tensor]) -> Array:
        chosen = [float(table[o.cell][o.edge, o.column]) for o in options]
        return np.array([*chosen, *[0.0] * len(flows)])

    # The solver may be past a bound by a rounding of its own; then it is asked for a little less.
    for share in (1.0, 1 - 1e-7, 1 - 1e-6, 1 - 1e-5):
        limits = [
            scipy.optimize.LinearConstraint(
                row(costs.edges) / limit, -np.inf, share - costs.constant / limit
            )
            for costs, limit in bounds
        ]
        found = scipy.optimize.milp(
            -row(values),
            integrality=[1] * len(options) + [0] * len(flows),
            bounds=scipy.optimize.Bounds(0, 1),
            constraints=[*rules, *limits],
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        chosen = found.x[: len(options)] > 0.5
        genotype = _genotype(space, [o for o, x in zip(options, chosen, strict=True) if x])
        if all(costs.of(space, genotype) <= limit for costs, limit in bounds):
            return genotype
    return None


def _choice(
    space: Space, options: Sequence[_Option], flows: int
) -> list[scipy.optimize.LinearConstraint]:
    """An edge has at most one operation, and a group of edges as many as are kept."""
    few = space.leaves_edges_out
    edges: dict[object, Array] = {}
    groups: dict[object, Array] = {}
    kept: dict[object, int] = {}
    for place, (cell, edge, _) in enumerate(options):
        table = space.cells[cell]
        node = table.edges[edge][1]
        group = cell, node if few else edge
        kept[group] = min(KEPT_EDGES, len(table.incoming(node))) if few else 1
        for rows, key in ((edges, (cell, edge)), (groups, group)):
            rows.setdefault(key, np.zeros(len(options) + flows))[place] = 1
    exact = [kept[group] for group in groups]
    return [
        scipy.optimize.LinearConstraint(np.stack([*edges.values()]), 0, 1),
        scipy.optimize.LinearConstraint(np.stack([*groups.values()]), exact, exact),
    ]


def _path(
    space: Space, options: Sequence[_Option], flows: Sequence[tuple[str, int]]
) -> scipy.optimize.LinearConstraint:
    """A unit flows from the inputs to each node that is an output, over edges without `none`."""
    columns = len(options) + len(flows)
    rows, least, most = [np.zeros(columns)], [0.0], [0.0]
    for place, (cell, edge) in enumerate(flows, start=len(options)):
        # No more flow than there is of operations other than `none`.
        row = np.zeros(columns)
        row[place] = 1
        for column, option in enumerate(options):
            name = space.cells[option.cell].candidates[option.edge][option.column]
            if option[:2] == (cell, edge) and name != "none":
                row[column] = -1
        rows, least, most = [*rows, row], [*least, -1.0], [*most, 0.0]
    for cell, table in space.cells.items():
        for node in table.nodes if _can_be_cut(space, cell) else ():
            row = np.zeros(columns)
            for sign, of_node in ((1, table.incoming(node)), (-1, table.outgoing(node))):
                row[[len(options) + flows.index((cell, edge)) for edge in of_node]] = sign
            arrives = float(node == table.nodes[-1])
            rows, least, most = [*rows, row], [*least, arrives], [*most, arrives]
    return scipy.optimize.LinearConstraint(np.stack(rows), least, most)


def _can_be_cut(space: Space, cell: str) -> bool:
    """Whether a cell's `none` can cut its output off: where edges are left out none is chosen."""
    return not space.leaves_edges_out and any("none" in r for r in space.cells[cell].candidates)


def alive(space: Space, genotype: Genotype) -> bool:
    """Whether the output of every cell depends on its input: a path of other than `none`."""
    for name, table in space.cells.items():
        reached = set(range(table.inputs))
        for operation, source, target in sorted(genotype.cell(name), key=lambda c: c.source):
            if operation != "none" and source in reached:
                reached.add(target)
        if _can_be_cut(space, name) and table.nodes[-1] not in reached:
            return False
    return True


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
