from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from darts.baselines import SEARCHERS, RandomSearch
from darts.baselines.simulation import CELL, Answers, best_so_far, encoded, simulate
from darts.baselines.trained import decoded
from darts.benchmark.nb201 import RESNET, Table
from darts.cli import main
from darts.errors import UserError
from darts.spaces import get_space


@pytest.fixture(scope="module")
def table(shared: Path) -> Table:
    return Table.load(shared / "nb201.csv.gz")


def test_cells_and_architectures_are_each_others_inverse() -> None:
    cell = np.array(encoded(RESNET))
    assert str(decoded(get_space("nb201"), cell)) == RESNET


def test_answers_are_the_tables(table: Table) -> None:
    answers = Answers(table, "cifar100")
    for row in table.rows[::997]:
        number = int(answers.numbers(np.array(encoded(row.arch))))
        assert answers.valid[number] == row.valid["cifar100"]
        assert answers.test[number] == row.test["cifar100"]


def test_best_so_far_against_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    valid = generator.integers(0, 8, size=50).astype(float)  # with equals
    asked = generator.integers(50, size=(40, 7))
    found = best_so_far(asked, valid)
    for search in range(7):
        best = asked[0, search]
        for step in range(40):
            if valid[asked[step, search]] > valid[best]:
                best = asked[step, search]
            assert found[step, search] == best


def test_random_search_has_the_expectation_of_its_definition(table: Table) -> None:
    """Mean over all cells of the best of n independent draws, from the sorted table."""
    answers = Answers(table, "cifar10")
    curve = simulate(answers, RandomSearch, networks=20, searches=20_000)
    order = np.argsort(answers.valid, kind="stable")
    below = np.arange(len(order) + 1) / len(order)
    for networks in (1, 5, 20):
        weights = np.diff(below**networks)
        expected = float(weights @ answers.test[order])
        deviation = float(curve.test[:, networks - 1].std()) / 20_000**0.5
        # A tie in validation is given to the first drawn; there are few.
        assert abs(curve.mean[networks - 1] - expected) < 5 * deviation + 1e-3


def test_evolution_and_local_search_beat_random_search_in_the_end(table: Table) -> None:
    answers = Answers(table, "cifar10")
    last = {
        name: simulate(answers, SEARCHERS[name], networks=300, searches=300).mean[-1]
        for name in ("random", "evolution", "local")
    }
    assert last["random"] + 0.1 < min(last["evolution"], last["local"])


def test_bananas_is_ahead_of_evolution_after_100_networks(table: Table) -> None:
    answers = Answers(table, "cifar10")
    mean = {
        name: simulate(answers, SEARCHERS[name], networks=100, searches=40).mean[-1]
        for name in ("evolution", "bananas")
    }
    assert mean["evolution"] < mean["bananas"]


def test_what_the_table_cannot_answer(table: Table) -> None:
    answers = Answers(table, "cifar10")
    with pytest.raises(UserError, match="after 200 alone"):
        simulate(answers, SEARCHERS["halving"], networks=3, searches=2)
    with pytest.raises(UserError, match="networks=0"):
        simulate(answers, RandomSearch, networks=0, searches=2)
    assert CELL.shape == (6, 5)


def test_the_command_draws_curves_and_runs(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "edd"
    run.mkdir()
    (run / "config.yaml").write_text("space: nb201\n")
    (run / "genotype.txt").write_text(RESNET + "\n")
    (run / "log.jsonl").write_text('{"epoch": 0, "seconds": 1000.0}\n')
    table, out = str(shared / "nb201.csv.gz"), tmp_path / "anytime.svg"
    arguments = ["baselines", "--table", table, "--networks", "12", "--searches", "9"]
    assert main([*arguments, "--out", str(out), "--runs", str(run)]) == 0
    assert "evolution" in capsys.readouterr().out
    assert out.read_bytes().startswith(b"<?xml")
    lines = out.with_suffix(".csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 12
    name, networks, seconds, mean, *_ = lines[12].split(",")
    assert (name, networks, seconds) == ("random", "12", str(12 * 1828))
    assert 80 < float(mean) < 94.37
    assert main([*arguments, "--dataset", "cifar100", "--out", str(out), "--runs", str(run)]) == 2
    assert "--network-seconds" in capsys.readouterr().err
    assert main([*arguments, "--out", "curve.txt"]) == 2
    assert main([*arguments, "--out", str(tmp_path / "no" / "x.svg")]) == 2
    assert main([*arguments, "--searchers", "bohb"]) == 2
    assert "choose from random" in capsys.readouterr().err
