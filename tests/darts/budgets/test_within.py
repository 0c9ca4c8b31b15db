"""The best architecture within bounds, against all of them tried in turn."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darts.budgets.costs import Costs
from darts.budgets.within import Bound, alive, best_within, cheapest, dearest, preferences
from darts.networks.genotype import Choice, Genotype
from darts.spaces import DARTS, NB201, S3, Cell, Space

SMALL = Space(
    "small",
    "nb201",
    {"cell": Cell(1, ((0, 1), (0, 2), (1, 2)), (("none", "skip_connect", "nor_conv_3x3"),) * 3)},
)
TWO_NODES = Space(
    "two",
    "darts",
    {
        name: Cell(
            2,
            ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)),
            (("none", "skip_connect", "sep_conv_3x3"),) * 5,
            reduction=name == "reduce",
        )
        for name in ("normal", "reduce")
    },
)


def every(space: Space) -> Iterator[Genotype]:
    """All architectures of a small space."""
    cells = []
    for table in space.cells.values():
        nodes = []
        for node in table.nodes if space.leaves_edges_out else [None]:
            edges = table.incoming(node) if node is not None else range(len(table.edges))
            kept = itertools.combinations(edges, 2) if node is not None else [tuple(edges)]
            nodes.append(
                [
                    tuple(Choice(o, *table.edges[e]) for o, e in zip(names, chosen, strict=True))
                    for chosen in kept
                    for names in itertools.product(*(table.candidates[e] for e in chosen))
                    if not (space.leaves_edges_out and "none" in names)
                ]
            )
        cells.append([sum(parts, ()) for parts in itertools.product(*nodes)])
    for found in itertools.product(*cells):
        genotype = Genotype(space.skeleton, tuple(zip(space.cells, found, strict=True)))
        if space.leaves_edges_out or lives(genotype):
            yield genotype


def lives(genotype: Genotype) -> bool:
    """Whether `SMALL`'s output, node 2, is reached: directly, or by node 1."""
    first, direct, second = (c.operation != "none" for c in genotype.cell("cell"))
    return direct or (first and second)


def random_costs(space: Space, source: torch.Generator, largest: int) -> Costs:
    edges = {
        name: torch.randint(largest, cell.shape, generator=source).double()
        for name, cell in space.cells.items()
    }
    return Costs(float(torch.randint(1, largest, (), generator=source)), edges)


@pytest.mark.parametrize("space", [SMALL, TWO_NODES], ids=lambda space: space.name)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3),
    largest=st.sampled_from([10, 10_000_000]),
)
def test_is_the_best_of_all_that_meet_the_bounds(
    space: Space, seed: int, shares: list[float], largest: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    values = Costs(
        0.0, {n: torch.randn(c.shape, generator=source).double() for n, c in space.cells.items()}
    )
    architectures = list(every(space))
    bounds = []
    for share in shares:
        costs = random_costs(space, source, largest)
        some = sorted(costs.of(space, genotype) for genotype in architectures)
        bounds.append(Bound(costs, some[int(share * (len(some) - 1))]))  # met without any slack
    allowed = [g for g in architectures if all(c.of(space, g) <= limit for c, limit in bounds)]
    found = best_within(space, values.edges, bounds)
    if not allowed:
        assert found is None
        return
    assert found in allowed
    best = max(values.of(space, g) for g in allowed)
    assert values.of(space, found) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("space", [NB201, DARTS, S3], ids=lambda space: space.name)
def test_without_bounds_it_is_what_the_space_derives(space: Space) -> None:
    """Up to the order in which a node's two edges are named."""
    source = torch.Generator().manual_seed(3)
    for _ in range(5):
        beta = {
            n: torch.rand(c.shape, generator=source).softmax(-1) for n, c in space.cells.items()
        }
        derived = space.derive(beta)
        found = best_within(space, preferences(beta, beta), [])
        assert found is not None
        assert not alive(space, derived) or [(n, set(c)) for n, c in found.cells] == [
            (n, set(c)) for n, c in derived.cells
        ]


def test_alive() -> None:
    names = SMALL.cells["cell"].candidates[0]
    edges = SMALL.cells["cell"].edges
    for drawn in itertools.product(names, repeat=3):
        choices = tuple(Choice(o, *e) for o, e in zip(drawn, edges, strict=True))
        genotype = Genotype("nb201", (("cell", choices),))
        assert alive(SMALL, genotype) == lives(genotype)


def test_the_extremes() -> None:
    costs = random_costs(TWO_NODES, torch.Generator().manual_seed(0), 1000)
    all_costs = [costs.of(TWO_NODES, g) for g in every(TWO_NODES)]
    assert costs.of(TWO_NODES, cheapest(TWO_NODES, costs)) == min(all_costs)
    assert costs.of(TWO_NODES, dearest(TWO_NODES, costs)) == max(all_costs)


def test_lost_operations_rank_by_alpha() -> None:
    beta = {"cell": torch.tensor([[1.0, 0.0, 0.0, 1e-20]])}
    alpha = {"cell": torch.tensor([[2.0, 0.5, 1.0, 1.5]])}
    order = preferences(beta, alpha)["cell"][0].argsort(descending=True)
    assert order.tolist() == [0, 3, 2, 1]
