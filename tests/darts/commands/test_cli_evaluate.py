from __future__ import annotations

from pathlib import Path

import pytest

from darts.benchmark.nb201 import RESNET
from darts.cli import main

SMALL = ["--channels", "4", "--batch-size", "256", "--epochs", "1"]


def test_evaluate_prints_a_line_an_epoch_and_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["evaluate", "--genotype", RESNET, *SMALL, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 0  epoch 1  loss ")
    assert lines[-1].startswith("top-1 ")
    assert main(["evaluate", "--resume", str(out)]) == 0  # nothing is left to do
    assert capsys.readouterr().out.splitlines() == lines[-1:]


def test_wrong_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--genotype", "|what~0|"], "what"),
        (["--genotype", RESNET, "--recipe", "long"], "recipe 'long' is unknown"),
        (["--genotype", RESNET, "--data", "nowhere.npz"], "does not exist"),
        (["--resume", str(tmp_path)], "is not a run folder"),
    ):
        assert main(["evaluate", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_search_ends_with_the_found_network_trained_from_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["search", "--cells", "1", *SMALL, "--evaluate", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "training the found network from scratch: 10 epochs, C=4, N=1" in printed
    assert "% on held-out images" in printed
    assert printed.splitlines()[-1] == f"picture  {out / 'search.png'}"
    config = (out / "evaluation" / "config.yaml").read_text()
    assert f"genotype: '{(out / 'genotype.txt').read_text().strip()}'" in config
