from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darts import configure_evaluation
from darts.data import Folders, ImageSet, held_out_batches, load_data
from darts.data.folders import FolderBatches
from darts.errors import UserError
from darts.training.evaluate import cost, evaluate
from darts.training.scratch import Training

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
"""The second-order cell of Liu et al., ICLR 2019."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ImageNet: six classes of plain colours with noise, of several sizes."""
    base = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for label in range(6):
            folder = base / "imagenet" / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                shape = (60 + 10 * number, 90, 3)
                pixels = noise.integers(0, 60, shape) + 30 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.JPEG")
    return base


def test_images_are_cropped_and_normalised(root: Path) -> None:
    data = Folders(root, workers=0)
    assert (data.classes, data.name) == (6, "ImageNet")
    batch = next(FolderBatches(data, batch_size=8, seed=0).epoch())
    assert batch.images.shape == (8, 3, 224, 224)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    tests = list(held_out_batches(data, batch_size=5, device="cpu"))
    assert [len(batch.labels) for batch in tests] == [5, 5, 2]
    assert torch.cat([batch.labels for batch in tests]).tolist() == sorted([*range(6)] * 2)
    mean, deviation = data.normalization()
    darkest = tests[0].images[0] * deviation[:, None, None] + mean[:, None, None]
    assert float(darkest.mean()) == pytest.approx(30 / 255, abs=0.02)


def test_batches_do_not_depend_on_workers_and_resume_anywhere(root: Path) -> None:
    alone = FolderBatches(Folders(root, workers=0), batch_size=6, seed=3)
    whole = [batch for _ in range(2) for batch in alone.epoch()]
    assert len(whole) == 8
    labels = torch.cat([batch.labels for batch in whole])
    assert labels[:24].tolist() != labels[24:].tolist()
    assert sorted(labels[:24].tolist()) == sorted([*range(6)] * 4)
    assert not torch.equal(whole[0].images, whole[4].images)

    first = FolderBatches(Folders(root, workers=2), batch_size=6, seed=3)
    for count, batch in enumerate(first.epoch(), start=1):
        assert torch.equal(batch.images, whole[count - 1].images)
        if count == 3:
            break
    resumed = FolderBatches(Folders(root, workers=2), batch_size=6, seed=3)
    resumed.load_state_dict(first.state_dict())
    rest = [batch for _ in range(2) for batch in resumed.epoch()]
    assert len(rest) == 5
    for batch, expected in zip(rest, whole[3:], strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)


def test_batches_leave_the_global_generator_alone(root: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    next(FolderBatches(Folders(root, workers=0), batch_size=2, seed=0).epoch())
    assert torch.equal(torch.rand(3), expected)


def test_wrong_folders_are_one_sentence(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ImageNet is not in .*must hold train/CLASS") as caught:
        load_data("imagenet", root=tmp_path, download=False, workers=0)
    assert "\n" not in str(caught.value)
    for part, names in (("train", "ab"), ("val", "a")):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.JPEG")
    with pytest.raises(UserError, match="must have the same class folders"):
        load_data("imagenet", root=tmp_path, download=False, workers=0)
    with pytest.raises(UserError, match="batch_size=25 must be between 1 and the 24"):
        FolderBatches(Folders(root, workers=0), batch_size=25, seed=0)


def test_transfer_recipe_is_the_published_one() -> None:
    config = configure_evaluation(genotype=DARTS_V2, recipe="imagenet")
    assert (config.network.channels, config.network.cells, config.network.auxiliary) == (
        48,
        14,
        0.4,
    )
    assert (config.training.epochs, config.training.label_smoothing) == (250, 0.1)
    with pytest.raises(UserError, match=r"needs a genotype of .*darts.*, not of nb201"):
        configure_evaluation(
            genotype="|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", recipe="imagenet"
        )


def test_transferred_network_has_the_published_size(root: Path) -> None:
    data = Folders(root, workers=0)
    data.classes = 1000
    parameters, multiply_adds = cost(
        configure_evaluation(genotype=DARTS_V2, recipe="imagenet"), data
    )
    assert parameters / 1e6 == pytest.approx(4.7, abs=0.05)  # Liu et al., Table 3
    # Convolutions and the classifier. The table has 574 M and does not say what it counts.
    assert multiply_adds / 1e6 == pytest.approx(530, abs=1)


def test_cifar_network_has_the_published_size() -> None:
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images = ImageSet("cifar", pixels, torch.tensor([9]), pixels, torch.tensor([9]))
    parameters, _ = cost(configure_evaluation(genotype=DARTS_V2, recipe="darts"), images)
    assert parameters / 1e6 == pytest.approx(3.3, abs=0.06)  # Liu et al., Table 1


def test_trains_on_folders_with_the_recipe(root: Path) -> None:
    config = configure_evaluation(
        genotype=DARTS_V2,
        recipe="imagenet",
        data={"root": str(root), "batch_size": 12},
        network={"channels": 4, "cells": 3},
        training={"epochs": 1, "warmup": 0},
        workers=0,
    )
    result = evaluate(config)
    assert 0 <= result.top1[0] <= result.top5[0] <= 100
    with pytest.raises(UserError, match="cutout=4 is for small images"):
        Training(
            configure_evaluation(
                genotype=DARTS_V2,
                recipe="imagenet",
                data={"root": str(root), "batch_size": 12, "cutout": 4},
                network={"channels": 4, "cells": 3},
            ),
            Folders(root, workers=0),
            0,
        )
