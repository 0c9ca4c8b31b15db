"""Searches under several budgets."""

import itertools
import json
from pathlib import Path

import pytest

from darts.cli import main
from darts.config import ConfigError
from darts.data import load
from darts.recipes import configure
from darts.training.front import limits

SMALL = ["--epochs", "1", "--batch-size", "256", "--channels", "4", "--cells", "1", "--quiet"]


def test_limits_are_in_equal_ratios_up_to_the_largest() -> None:
    found = limits(configure(), "params", 4, load("digits"))
    ratios = [b / a for a, b in itertools.pairwise(found)]
    assert ratios == pytest.approx([ratios[0]] * 3)
    assert found[-1] == 364_954  # six 3x3 convolutions, C=16, N=1
    assert found[0] / ratios[0] == pytest.approx(73_306)
    bounded = configure(budget={"params": 2e5})
    assert limits(bounded, "params", 4, load("digits"))[-1] == 2e5
    with pytest.raises(ConfigError, match="nothing to choose from"):
        limits(configure(budget={"params": 100}), "params", 4, load("digits"))


def test_command_writes_a_front_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "front"
    command = ["front", "--method", "darts-v1", *SMALL, "--budgets", "2", "--out", str(out)]
    assert main([*command, "--of", "macs"]) == 0
    first = (out / "front.json").read_text()
    points = json.loads(first)["points"]
    assert len(points) == 2
    assert all(point["cost"] <= point["limit"] for point in points)
    assert (out / "1" / "genotype.txt").read_text().strip() == points[0]["genotype"]
    assert main([*command, "--of", "macs"]) == 0
    assert (out / "front.json").read_text() == first
    assert "| budget | multiply-adds |" in capsys.readouterr().out
    assert main([*command, "--budgets", "1"]) == 2
    assert main(["front", *SMALL]) == 2
    assert main(["front", *SMALL, "--resume", str(out)]) == 2
    message = capsys.readouterr().err
    for part in ("budgets must be at least 2", "a front needs out", "without --resume"):
        assert part in message
