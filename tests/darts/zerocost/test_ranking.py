from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from darts.benchmark.nb201 import SIZE, Table
from darts.cli import main
from darts.networks.network import build_network
from darts.networks.size import multiply_adds
from darts.zerocost.ranking import correlation, sizes


def test_correlation_by_hand() -> None:
    """Ranks 1 2 3 4 against 1 3 2 4: ρ = 1 - 6 * 2 / 60, one of six pairs is discordant."""
    found = correlation([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0])
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)


def test_a_score_of_minus_infinity_is_the_last() -> None:
    assert correlation([-math.inf, 1.0, 2.0], [10.0, 20.0, 30.0]) == pytest.approx((1.0, 1.0))


def test_parameters_are_those_of_the_benchmark(shared: Path) -> None:
    """Of all cells, with the benchmark's network and ten classes."""
    rows = Table.load(shared / "nb201.csv.gz").rows
    found = sizes([r.arch for r in rows], channels=16, cells=5, classes=10, shape=(3, 32, 32))
    assert found["params"] == [row.params for row in rows]


def test_multiply_adds_are_those_of_the_network(shared: Path) -> None:
    archs = [row.arch for row in Table.load(shared / "nb201.csv.gz").rows[::2500]]
    found = sizes(archs, channels=4, cells=2, classes=3, shape=(3, 12, 12))["macs"]
    for arch, macs in zip(archs, found, strict=True):
        net = build_network(arch, channels=4, cells=2, classes=3)
        assert macs == multiply_adds(net, torch.zeros(1, 3, 12, 12)), arch


def test_the_command_ranks(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = str(shared / "nb201.csv.gz"), tmp_path / "scores.csv"
    arguments = ["zerocost", "--table", table, "--channels", "4", "--cells", "1"]
    size = ["--count", "8", "--batch-size", "8"]
    assert main([*arguments, *size, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    whole = next(line.split() for line in lines if line.startswith("params"))
    assert whole[1] == str(SIZE)
    assert 0.7 < float(whole[2]) < 0.8
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {"synflow", "jacob_cov", "naswot", "swap", "macs"} < set(rows[0])
    assert main([*arguments, "--count", "1"]) == 2
    assert main([*arguments, "--scores", "zen"]) == 2
    assert "choose from params" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "no" / "x.csv")]) == 2
    assert "folder that exists" in capsys.readouterr().err
