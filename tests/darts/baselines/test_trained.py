from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from darts.baselines import SuccessiveHalving
from darts.baselines.random_search import RandomSearch
from darts.baselines.trained import Trained, search_by_training
from darts.cli import main
from darts.data import ImageSet
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.spaces import get_space


@pytest.fixture
def images() -> ImageSet:
    """Two classes, dark and bright, that every network with a path tells apart."""
    labels = torch.arange(64) % 2
    pixels = torch.randint(0, 60, (64, 3, 8, 8), dtype=torch.uint8)
    pixels += (150 * labels).to(torch.uint8)[:, None, None, None]
    return ImageSet("bright", pixels, labels, pixels[:2], labels[:2], flip=False)


SETTINGS = {
    "data": {"batch_size": 16},
    "network": {"channels": 4, "cells": 1},
    "training": {"epochs": 9},
}


def test_halving_trains_for_its_shares_and_stays_in_its_budget(images: ImageSet) -> None:
    told: list[Trained] = []
    found = search_by_training(
        get_space("nb201"),
        SuccessiveHalving,
        images,
        networks=2.5,
        settings=SETTINGS,
        report=told.append,
    )
    assert told == found
    assert [trained.epochs for trained in found] == [1] * 9 + [3] * 3  # a whole one costs 3
    assert found[-1].cost == 2
    first = sorted(found[:9], key=lambda trained: -trained.valid)[:3]
    assert [trained.genotype for trained in found[9:]] == [trained.genotype for trained in first]


def test_longer_trainings_come_first() -> None:
    long, short = Trained("a", 9, 50.0, 1.0, 1.0), Trained("b", 3, 90.0, 1.0, 1.0)
    assert long.better_than(None)
    assert long.better_than(short)
    assert not short.better_than(long)


def test_what_cannot_be_searched_says_why(images: ImageSet) -> None:
    with pytest.raises(UserError, match="skeleton"):
        search_by_training(get_space("darts"), RandomSearch, images, networks=1)
    with pytest.raises(UserError, match="networks=0"):
        search_by_training(get_space("nb201"), RandomSearch, images, networks=0)
    with pytest.raises(UserError, match=r"training\.epochs=3 must be at least 9"):
        search_by_training(
            get_space("nb201"),
            SuccessiveHalving,
            images,
            networks=1,
            settings={**SETTINGS, "training": {"epochs": 3}},
        )


def test_the_command_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    size = ["--epochs", "1", "--channels", "4", "--networks", "2"]
    assert main(["blackbox", "--searcher", "random", *size, "--out", str(out)]) == 0
    with (out / "networks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    best = max(rows, key=lambda row: float(row["valid"]))
    text = (out / "genotype.txt").read_text().strip()
    assert text == best["genotype"]
    assert Genotype.parse(text).skeleton == "nb201"
    assert main(["blackbox", *size, "--out", str(out)]) == 2
    assert "empty folder" in capsys.readouterr().err
    assert main(["blackbox", "--searcher", "bohb", "--out", str(tmp_path / "x")]) == 2
    assert "choose from random" in capsys.readouterr().err
