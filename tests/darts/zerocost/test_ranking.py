from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from darts.benchmark.nb201 import SIZE, Table
from darts.cli import main
from darts.commands import zerocost
from darts.networks.network import build_network
from darts.networks.size import multiply_adds
from darts.zerocost import SCORES, swap
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


def test_the_command_goes_on(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted between two saves, it gives the scores of an uninterrupted one."""
    table = str(shared / "nb201.csv.gz")
    arguments = ["zerocost", "--table", table, "--channels", "4", "--cells", "1", "--count", "5"]
    arguments += ["--scores", "params", "synflow", "swap", "--batch-size", "8"]
    monkeypatch.setattr(zerocost, "SAVED_EVERY", 2)
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    assert main([*arguments, "--out", str(whole)]) == 0
    correlations = capsys.readouterr().out.splitlines()[-3:]

    scored: list[object] = []

    def interrupted(network: torch.nn.Module, images: torch.Tensor) -> float:
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(network)
        return swap(network, images)

    with monkeypatch.context() as patch:
        patch.setitem(SCORES, "swap", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([*arguments, "--out", str(parts)])
    assert len(parts.read_text().splitlines()) == 1 + 2
    assert main([*arguments, "--out", str(parts)]) == 0
    assert parts.read_bytes() == whole.read_bytes()
    again = capsys.readouterr().out.splitlines()[-3:]
    assert [line[:40] for line in again] == [line[:40] for line in correlations]
    assert main([*arguments, "--out", str(parts), "--seed", "1"]) == 2
    assert "was made with seed=0, not 1" in capsys.readouterr().err
    lines = parts.read_text().splitlines()
    parts.write_text("\n".join([lines[0], lines[2], lines[1]]) + "\n")
    assert main([*arguments, "--out", str(parts)]) == 2
    assert "does not hold the scores of these cells" in capsys.readouterr().err
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("arch\n")
    assert main([*arguments, "--out", str(foreign)]) == 2
    assert "has not begun" in capsys.readouterr().err
