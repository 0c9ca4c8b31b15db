"""Data sets of a user's own: a registered entry, a folder of images, a torch Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import darts
from darts.data import SOURCES, from_datasets, load
from darts.errors import UserError


def write_images(folder: Path, classes: dict[str, int], size: tuple[int, int] = (20, 12)) -> None:
    draw = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")


def test_an_entry_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_sets.py").write_text(
        "from darts.data import SOURCES, load\n"
        "SOURCES['twice'] = lambda root, download: load('digits')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("darts.data.sources.SOURCES", SOURCES)
    try:
        assert len(load("my_sets:twice").train_images) == len(load("digits").train_images)
        config = darts.configure(data={"source": "my_sets:twice"})
        assert config.data.source == "my_sets:twice"
    finally:
        SOURCES.pop("twice", None)
    with pytest.raises(UserError, match=r"data\.source='no_such:x': 'no_such' cannot be imported"):
        load("no_such:x")


def test_a_folder_of_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 7, "dog": 8})
    images = load(tmp_path / "set", side=16)
    assert images.shape == (3, 16, 16)
    assert (len(images.train_images), len(images.test_images)) == (12, 3)
    assert images.classes == 2
    assert images.name == "set"


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_with_parts(held_out: str, tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 6, "b": 6})
    write_images(tmp_path / held_out, {"a": 2, "b": 3})
    images = load(tmp_path)
    assert images.shape == (3, 32, 32)
    assert (len(images.train_images), len(images.test_images)) == (12, 5)


def test_a_folder_is_searched_and_trained(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"a": 20, "b": 20})
    data: Any = {"source": str(tmp_path / "set"), "side": 9, "batch_size": 8}
    config = darts.configure(
        method="darts-v1", epochs=1, data=data, supernet={"channels": 4, "cells": 1}
    )
    genotype = darts.search(config).genotype

    found = darts.evaluate(
        darts.configure_evaluation(
            genotype=str(genotype),
            data=data,
            network={"channels": 4, "cells": 1},
            training={"epochs": 1},
        )
    )
    assert 0 <= found.top1[0] <= 100


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold images in CLASS"):
        load(tmp_path)
    write_images(tmp_path / "train", {"a": 2})
    with pytest.raises(UserError, match="must have one of test, val, valid"):
        load(tmp_path)
    write_images(tmp_path / "val", {"b": 2})
    with pytest.raises(UserError, match="same class folders"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(8, 2, 2, dtype=torch.int64), "a label must have at most one dimension"),
        (torch.full((8, 2), 2), "several labels an image must be 0 or 1"),
        (torch.full((8,), torch.nan), "train_labels must be finite"),
        (torch.arange(1, 9), "labels must count from 0, but the smallest is 1"),
    ],
)
def test_labels_that_are_none(labels: torch.Tensor, words: str) -> None:
    data = TensorDataset(torch.rand(8, 3, 8, 8), labels)
    with pytest.raises(UserError, match=words):
        from_datasets(data, data)


def test_a_loader_is_no_image_set() -> None:
    loader = DataLoader(TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8)))
    with pytest.raises(UserError, match="images must be an ImageSet, not DataLoader"):
        darts.Search(darts.configure(), images=loader)  # type: ignore[arg-type]
