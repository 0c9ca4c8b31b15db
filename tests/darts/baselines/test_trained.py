from __future__ import annotations

import csv
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from darts.baselines import (
    Bananas,
    MakeSearcher,
    RandomSearch,
    RegularizedEvolution,
    SuccessiveHalving,
)
from darts.baselines.trained import Trained, read_networks, search_by_training, write_networks
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


@pytest.mark.parametrize("make", [SuccessiveHalving, RegularizedEvolution, Bananas])
def test_what_is_done_is_not_trained_again(
    make: MakeSearcher, images: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ten or so of 13 or 14 networks, on values that follow from the cell."""
    trainings: list[str] = []

    def train(config: Any, epochs: int, images: ImageSet, seed: int) -> tuple[float, float]:
        trainings.append(config.genotype)
        return zlib.crc32(config.genotype.encode()) % 1000 / 7, 0.1 + 1e-17 * epochs

    monkeypatch.setattr("darts.baselines.trained._train", train)

    def search(networks: float, done: Sequence[Trained] = ()) -> list[Trained]:
        return search_by_training(
            get_space("nb201"), make, images, networks=networks, settings=SETTINGS, done=done
        )

    whole = search(2.9 if make is SuccessiveHalving else 14)
    for count in (1, 10, len(whole)):
        write_networks(tmp_path / "networks.csv", whole[:count])
        trainings.clear()
        assert search(whole[-1].cost, read_networks(tmp_path / "networks.csv")) == whole
        assert trainings == [trained.genotype for trained in whole[count:]]


def test_networks_of_another_search_are_refused(images: ImageSet, tmp_path: Path) -> None:
    other = [Trained("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", 9, 50.0, 1.0, 1.0)]
    with pytest.raises(UserError, match="network 1 of those that are done"):
        search_by_training(
            get_space("nb201"), RandomSearch, images, networks=1, settings=SETTINGS, done=other
        )
    file = tmp_path / "networks.csv"
    for text in ("genotype,epochs\nx,1\n", "genotype,epochs,valid,cost,seconds\nx,one,1,1,1\n"):
        file.write_text(text)
        with pytest.raises(UserError, match="not a file of trained networks"):
            read_networks(file)


def test_a_killed_command_loses_the_network_in_training_alone(tmp_path: Path) -> None:
    size = ["--epochs", "1", "--channels", "4", "--networks", "3", "--searcher", "evolution"]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "darts", "blackbox", *size, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < end:
        if (out / "networks.csv").exists() and read_networks(out / "networks.csv"):
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = read_networks(out / "networks.csv")
    assert kept
    assert main(["blackbox", *size, "--out", str(out)]) == 0
    found = read_networks(out / "networks.csv")
    assert len(found) == 3
    assert found[: len(kept)] == kept
    best = max(found, key=lambda trained: trained.valid)
    assert (out / "genotype.txt").read_text() == f"{best.genotype}\n"


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
    assert "searcher='random', not 'evolution'" in capsys.readouterr().err
    (out / "settings.json").write_text("1")
    assert main(["blackbox", *size, "--out", str(out)]) == 2
    assert "does not hold a command's settings" in capsys.readouterr().err
    (out / "settings.json").unlink()
    assert main(["blackbox", *size, "--out", str(out)]) == 2
    assert "empty folder" in capsys.readouterr().err
    assert main(["blackbox", "--searcher", "bohb", "--out", str(tmp_path / "x")]) == 2
    assert "choose from random" in capsys.readouterr().err
