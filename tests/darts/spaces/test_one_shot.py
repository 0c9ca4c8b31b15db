"""NAS-Bench-1Shot1's spaces."""

from __future__ import annotations

import itertools

import pytest
import torch

from darts.networks.genotype import Genotype
from darts.networks.module_graph import OPERATIONS, ModuleGraph
from darts.networks.nb101 import to_graph
from darts.spaces import ONE_SHOT_1, ONE_SHOT_2, ONE_SHOT_3, Cell, Sources, Space
from darts.spaces.one_shot import one_shot

ALL = (ONE_SHOT_1, ONE_SHOT_2, ONE_SHOT_3)


def test_tables_are_the_authors() -> None:
    """Nodes' operations, then (of how many, how many) each other vertex reads."""
    said = [[(*c.shape, c.kept) for c in space.cells.values()] for space in ALL]
    assert said == [
        [(4, 3, 1), (1, 3, 2), (1, 4, 2), (1, 5, 2)],
        [(4, 3, 1), (1, 2, 1), (1, 3, 2), (1, 4, 2), (1, 5, 3)],
        [(5, 3, 1), (1, 2, 1), (1, 3, 1), (1, 4, 2), (1, 5, 2), (1, 6, 2)],
    ]
    assert list(ONE_SHOT_1.cells) == ["operations", "inputs-3", "inputs-4", "output"]
    assert list(ONE_SHOT_3.cells)[1:] == [*(f"inputs-{v}" for v in range(2, 6)), "output"]


def parents(space: Space) -> list[ModuleGraph]:
    """Every choice of what vertices read, with operations that are all the same."""
    tables = {n: c for n, c in space.cells.items() if isinstance(c, Sources)}
    picks = [itertools.combinations(range(c.shape[1]), c.kept) for c in tables.values()]
    weights = {"operations": torch.eye(3)[[0] * len(space.cells["operations"].edges)]}
    found = []
    for pick in itertools.product(*picks):
        for (name, cell), columns in zip(tables.items(), pick, strict=True):
            weights[name] = torch.zeros(cell.shape)
            weights[name][0, list(columns)] = 1
        found.append(to_graph(space.derive(weights).cells))
    return found


@pytest.mark.parametrize(
    ("space", "graphs", "published"),
    [(ONE_SHOT_1, 180, 6_240), (ONE_SHOT_2, 360, 29_160), (ONE_SHOT_3, 5_400, 363_648)],
)
def test_sizes_are_the_published_ones(space: Space, graphs: int, published: int) -> None:
    """Of the first and third space the paper counts operations of nodes that are read, of the
    second those of all nodes."""
    found = parents(space)
    assert len(set(found)) == len(found) == graphs
    assert all(sum(map(sum, graph.matrix)) == 9 for graph in found)
    nodes = range(1, found[0].last)
    read = sum(3 ** sum(bool(graph.targets(v)) for v in nodes) for graph in found)
    assert published == (graphs * 3 ** len(nodes) if space is ONE_SHOT_2 else read)


def test_every_choice_is_a_cell_of_the_benchmark() -> None:
    for graph in parents(ONE_SHOT_2):
        assert ModuleGraph.parse(str(graph)) == graph


def test_first_of_equals_wins_and_sources_come_in_order() -> None:
    weights = {n: torch.ones(c.shape) for n, c in ONE_SHOT_2.cells.items()}
    weights["inputs-4"] = torch.tensor([[0.1, 0.2, 0.4, 0.3]])
    graph = to_graph(ONE_SHOT_2.derive(weights).cells)
    assert [graph.sources(v) for v in range(1, 6)] == [[0], [0], [0, 1], [2, 3], [0, 1, 2]]
    assert graph.operations[1:-1] == (OPERATIONS[0],) * 4


def test_what_reads_everything_has_no_choice() -> None:
    """Node 2 of the first space reads both before it."""
    graphs = parents(ONE_SHOT_1)
    assert {tuple(graph.sources(2)) for graph in graphs} == {(0, 1)}


def test_a_space_of_ones_own() -> None:
    space = one_shot("mine", (1, 1, 2))
    genotype = space.derive({n: torch.rand(c.shape) for n, c in space.cells.items()})
    assert Genotype.parse(str(genotype)) == genotype
    assert (space.keeps_several, one_shot("mine", (1, 1, 1)).keeps_several) == (True, False)


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="vertex 2 must read 1 to 2 of those before it"):
        one_shot("mine", (1, 3, 1))
    with pytest.raises(ValueError, match="must add up to at most 9 edges"):
        one_shot("mine", (1, 2, 2, 2, 3))
    with pytest.raises(ValueError, match="kept=3 must be 1 to 2, as many candidates"):
        Sources(1, ((1, 2),), (("0", "1"),), kept=3)
    with pytest.raises(ValueError, match="kept=0 must be 1 to 1"):
        Cell(1, ((0, 1),), (("none",),), kept=0)
    with pytest.raises(ValueError, match="'7' is not one of 0, 1"):
        Sources(1, ((1, 2),), (("0", "7"),))
