"""The page of results follows from the committed measurements, and its statistics are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import reproduction
from bench.reproduction import (
    comparison,
    figure2,
    figure4,
    full_scale,
    overview,
    page,
    per_seed,
    sign_flip,
)


def row(name: str, accuracies: list[float]) -> dict[str, Any]:
    runs = [
        {
            "seed": seed,
            "genotype": "|none~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|",
            "cifar10": accuracy,
            "discrete_accuracy": accuracy / 2,
            "trajectory": {
                "entropy": [1.6, 0.5],
                "discrete_accuracy": [10.0, accuracy],
                "gradient": [None, 0.01],
                "cifar10": [10.0, accuracy],
            },
        }
        for seed, accuracy in enumerate(accuracies)
    ]
    return {"name": name, "paper": {}, "cells": 3, "runs": runs, "mean": {}, "std": {}}


RESULTS = {"rows": [row("EDD-DARTS", [93.0, 92.0, 94.0]), row("DARTS-V1", [90.0, 93.0])]}


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1.0], 1.0), ([1.0, 1.0], 0.5), ([1.0, 2.0, 3.0], 0.25), ([1.0, -1.0], 1.0), ([0.0], 1.0)],
)
def test_sign_flip_is_exact(differences: list[float], p: float) -> None:
    assert sign_flip(differences) == p


def test_comparison_is_paired_by_seed() -> None:
    expected = ["| EDD-DARTS | DARTS-V1 | 2 | +1.00 | 1/2 | 1.00 | +0.50 | 1/2 | 1.00 |"]
    for pair in (("EDD-DARTS", ""), ("EDD-DARTS", "DARTS-V1")):
        assert comparison(RESULTS, [pair]).splitlines()[2:] == expected


def test_rows_that_share_no_seed_are_not_compared() -> None:
    results = {"rows": [*RESULTS["rows"], row("not run", [])]}
    assert len(comparison(results, [("EDD-DARTS", "not run")]).splitlines()) == 2


def test_every_search_has_its_place() -> None:
    assert per_seed(RESULTS).splitlines() == [
        "| | seed 0 | seed 1 | seed 2 | median |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| EDD-DARTS | 93.00 | 92.00 | 94.00 | 93.00 |",
        "| DARTS-V1 | 90.00 | 93.00 | – | 91.50 |",
    ]


def test_cost_of_the_full_profiles_has_a_row_a_study() -> None:
    study = {"searches": 3, "search_hours": 1234.4, "trainings": 2, "training_hours": 0.6}
    lines = full_scale({"studies": {"table1": study}, "machine": {"threads": 2}}).splitlines()
    assert lines[-1] == "| table1 | 3 | 1,234 | 2 | 1 |"
    assert "2 CPU threads" in lines[2]


def test_pictures_are_drawn(tmp_path: Path) -> None:
    both = {"rows": [*RESULTS["rows"], row("ETS in cycles", [91.0]), row("not run", [])]}
    for draw in (figure4, figure2, overview):
        path = tmp_path / f"{draw.__name__}.png"
        draw(both, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_committed_page_is_what_the_measurements_give() -> None:
    root = Path(reproduction.__file__).resolve().parents[1]
    assert (root / reproduction.PAGE).read_text(encoding="utf-8") == page(
        reproduction.load(), reproduction.load_cost()
    )
