"""Each searcher against its definition, on values that are known for every cell."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts.baselines import (
    SEARCHERS,
    TPE,
    Bananas,
    LocalSearch,
    RandomSearch,
    RegularizedEvolution,
    SuccessiveHalving,
)
from darts.baselines.bananas import paths, routes
from darts.baselines.searcher import Cells, Searcher, Values, mutated
from darts.errors import UserError

SHAPE = (6, 5)


def value(cells: Cells) -> Values:
    """A value that is different for every cell, and smooth in none of its edges."""
    numbers = cells @ 5 ** np.arange(6)
    values: Values = np.sin(numbers * 12.9898) * 43758.5453 % 1
    return values


def history(searcher: Searcher, steps: int) -> tuple[Cells, Values]:
    """[steps, searches, edges], [steps, searches]."""
    cells, values = [], []
    for _ in range(steps):
        asked = searcher.ask().cells
        cells.append(asked)
        values.append(value(asked))
        searcher.tell(values[-1])
    return np.stack(cells), np.stack(values)


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "tpe"])
@given(seed=st.integers(0, 2**32), searches=st.integers(1, 4))
def test_cells_are_in_range_and_of_the_seed(name: str, seed: int, searches: int) -> None:
    def run() -> Cells:
        searcher = SEARCHERS[name](SHAPE, searches, np.random.default_rng(seed))
        return history(searcher, 30)[0]

    cells = run()
    assert cells.shape == (30, searches, 6)
    assert cells.min() >= 0
    assert cells.max() < 5
    assert (cells == run()).all()


def test_random_search_draws_every_operation_equally_often() -> None:
    cells, _ = history(RandomSearch(SHAPE, 1000, np.random.default_rng(0)), 50)
    counts = np.stack([(cells == k).mean((0, 1)) for k in range(5)])
    assert np.abs(counts - 0.2).max() < 0.01  # 50,000 draws: a deviation of 0.0018


def test_mutation_changes_one_edge_to_each_other_operation() -> None:
    cells = np.repeat(np.arange(5)[:, None], 6, axis=1).repeat(4, axis=0)
    steps = np.tile(np.arange(1, 5), 5)
    children = mutated(cells, np.full(20, 2), steps, 5)
    assert ((children != cells).sum(1) == 1).all()
    assert all(len(set(children[4 * k : 4 * k + 4, 2]) | {k}) == 5 for k in range(5))


def test_evolution_is_algorithm_1_of_real_et_al() -> None:
    """Each child is one edge from a member of the ten before it, the best of them where the whole
    population is as good as sampled."""
    population = 10
    searcher = RegularizedEvolution(
        SHAPE, 20, np.random.default_rng(1), population=population, sample=400
    )
    cells, values = history(searcher, 60)
    for step in range(population, 60):
        alive = slice(step - population, step)
        best = values[alive].argmax(0)
        parents = cells[alive][best, np.arange(20)]
        assert ((cells[step] != parents).sum(1) == 1).all(), step


def test_a_small_sample_does_not_always_breed_the_best() -> None:
    searcher = RegularizedEvolution(SHAPE, 200, np.random.default_rng(1), sample=1)
    cells, values = history(searcher, 11)
    parents = cells[:10][values[:10].argmax(0), np.arange(200)]
    assert ((cells[10] != parents).sum(1) > 1).any()


def test_local_search_is_hill_climbing_on_every_neighbour() -> None:
    """Against a plain walk: all unknown neighbours of a centre, then the best, or a new start."""
    cells, values = history(LocalSearch(SHAPE, 8, np.random.default_rng(3)), 400)
    moves = 0
    for search in range(8):
        walk = cells[:, search].tolist()
        told = values[:, search]
        step = 0
        while step < 400:
            centre, own, edge = walk[step], told[step], None
            step += 1
            while True:
                unknown = {
                    (*centre[:e], k, *centre[e + 1 :])
                    for e in range(6)
                    if e != edge
                    for k in range(5)
                    if k != centre[e]
                }
                end = step + len(unknown)
                if end > 400:
                    step = 400
                    break
                assert {tuple(cell) for cell in walk[step:end]} == unknown
                best = step + int(told[step:end].argmax())
                step = end
                if told[best] <= own:
                    break
                edge = next(e for e in range(6) if walk[best][e] != centre[e])
                centre, own = walk[best], told[best]
                moves += 1
    assert moves > 20


def test_halving_keeps_the_best_third_of_each_rung() -> None:
    searcher = SuccessiveHalving(SHAPE, 5, np.random.default_rng(0))
    for _ in range(3):
        asked, values, shares = [], [], []
        for _ in range(13):
            question = searcher.ask()
            asked.append(question.cells)
            shares.append(question.share)
            values.append(value(question.cells))
            searcher.tell(values[-1])
        assert shares == pytest.approx([1 / 9] * 9 + [1 / 3] * 3 + [1.0])
        for search in range(5):
            row = [tuple(cells[search]) for cells in asked]
            first = [float(told[search]) for told in values[:9]]
            best = sorted(range(9), key=lambda place: -first[place])[:3]
            assert row[9:12] == [row[place] for place in best]
            assert row[12] == row[best[0]]


def test_paths_of_a_cell_are_its_routes_sequences() -> None:
    """Against the graph written out: 1←0, 2←0, 2←1, 3←0, 3←1, 3←2."""
    edges = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    ways = [[(0, 1), (1, 2), (2, 3)], [(0, 1), (1, 3)], [(0, 2), (2, 3)], [(0, 3)]]
    found = [[edges[e] for e in way] for way in routes(6)]
    assert found == ways
    assert routes(3) == [[0, 2], [1]]
    assert routes(4) == [[0], [1], [2], [3]]
    every = np.stack(np.meshgrid(*[np.arange(5)] * 6, indexing="ij"), -1).reshape(-1, 6)
    numbers = paths(every, 5)
    assert numbers.max() < 125 + 25 + 25 + 5
    for place, way in enumerate(routes(6)):
        sequences = {
            tuple(cell[way]): int(n) for cell, n in zip(every, numbers[:, place], strict=True)
        }
        assert len(set(sequences.values())) == len(sequences) == 5 ** len(way)
    assert len(np.unique(numbers)) == 125 + 25 + 25 + 5


def test_bananas_asks_for_neighbours_of_the_best_mostly_and_never_twice() -> None:
    searcher = Bananas(SHAPE, 6, np.random.default_rng(4))
    near: list[Any] = []
    cells: list[Cells] = []
    values: list[Values] = []
    for step in range(100):
        asked = searcher.ask().cells
        if step % 10 == 0 and step:
            best = np.argsort(-np.stack(values, 1), axis=1, kind="stable")[:, :2]
            parents = np.stack(cells, 1)[np.arange(6)[:, None], best]
        if step >= 10:
            near.append(((asked[:, None] != parents).sum(2) == 1).any(1))
        cells.append(asked)
        values.append((asked == 3).sum(1) + value(asked))
        searcher.tell(values[-1])
    assert 0.5 < np.mean(near) < 1
    for search in range(6):
        assert len({tuple(asked[search]) for asked in cells[10:]}) == 90


def test_bananas_learns_which_operation_is_good() -> None:
    """The value is the number of edges with operation 3: all six within 60 networks."""
    searcher = Bananas(SHAPE, 20, np.random.default_rng(0))
    best = np.zeros(20)
    for _ in range(60):
        good = (searcher.ask().cells == 3).sum(1).astype(float)
        best = np.maximum(best, good)
        searcher.tell(good)
    assert best.mean() > 5


def test_tpe_is_of_the_seed_and_learns() -> None:
    pytest.importorskip("optuna")

    def run() -> Cells:
        return history(TPE(SHAPE, 2, np.random.default_rng(1)), 12)[0]

    cells = run()
    assert cells.shape == (12, 2, 6)
    assert (cells == run()).all()
    searcher = TPE(SHAPE, 3, np.random.default_rng(0))
    goods = []
    for _ in range(60):
        goods.append((searcher.ask().cells == 3).sum(1).astype(float))
        searcher.tell(goods[-1])
    assert np.mean(goods[-20:]) > np.mean(goods[:10]) + 1.5


def test_without_optuna_tpe_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="pip install optuna"):
        TPE(SHAPE, 1, np.random.default_rng(0))
