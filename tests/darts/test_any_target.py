"""Images of any size and labels go all the way: search, training, resumption, export, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import darts
from darts.commands.search import short_evaluation
from darts.config import ConfigError
from darts.data import ImageSet
from darts.data.targets import KINDS
from darts.errors import UserError
from darts.results.report import write_report

CLASSES, FLAGS, NUMBERS = KINDS
SUPERNET: Any = {"channels": 4, "cells": 1}
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|skip_connect~1|none~2|"


def labelled(dtype: torch.dtype, count: int = 64, size: tuple[int, int] = (8, 8)) -> ImageSet:
    """Images whose three channels' brightness says what they are labelled with."""
    source = torch.Generator().manual_seed(0)
    bright = torch.rand(count, 3, generator=source)
    noise = torch.rand(count, 3, *size, generator=source)
    pixels = (180 * bright[:, :, None, None] + 75 * noise).byte()
    labels = {CLASSES: bright.argmax(1), FLAGS: bright > 0.5, NUMBERS: 1000 + 50 * bright[:, :2]}
    parts = [(pixels[part], labels[dtype][part]) for part in (slice(16, None), slice(16))]
    return ImageSet("bright", *parts[0], *parts[1], flip=False)


def absolute(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss of a user's own."""
    return F.l1_loss(logits, labels.to(logits.dtype))


@pytest.mark.parametrize("method", ["edd", "darts-v2"])
@pytest.mark.parametrize("dtype", [FLAGS, NUMBERS])
def test_labels_go_all_the_way(dtype: torch.dtype, method: str, tmp_path: Path) -> None:
    images = labelled(dtype)
    kind = KINDS[dtype]
    data: Any = {"batch_size": 8, "loss": kind.loss}
    out = tmp_path / "run"
    config = darts.configure(
        method=method,
        epochs=2,
        out=str(out),
        data=data | {"stratified": True},
        supernet=SUPERNET,
    )
    found = darts.search(config, images=images)
    assert darts.search(config, images=images, resume=True).genotype == found.genotype
    last = found.history[-1]
    assert all(last[name] <= 100 for name in ("weight_accuracy", "discrete_accuracy"))

    asked = darts.configure_evaluation(
        genotype=str(out),
        out=str(out / "trained"),
        data=data,
        network=SUPERNET,
        training={"epochs": 1},
    )
    result = darts.evaluate(asked, images=images)
    assert tuple(result.measures) == kind.measures
    assert darts.evaluate(asked, images=images, resume=True).measures == result.measures
    assert json.loads((out / "trained" / "result.json").read_text())[kind.measures[0]]

    target = write_report([out], tmp_path / "report.html")
    page = target.read_text(encoding="utf-8")
    assert f"trained, {'R²' if dtype == NUMBERS else 'all labels right'}" in page


def test_numbers_are_predicted_in_their_own_units(tmp_path: Path) -> None:
    images = labelled(NUMBERS, 192)
    config = darts.configure_evaluation(
        genotype=CELL,
        out=str(tmp_path / "run"),
        data={"batch_size": 16, "loss": "mse", "augment": False},
        network={"channels": 8, "cells": 1},
        training={"epochs": 12},
    )
    result = darts.evaluate(config, images=images)
    assert result.measures["r2"][0] > 60
    net = darts.load_network(tmp_path / "run")
    with torch.no_grad():
        error = (net(images.test_images) - images.test_labels).double()
    rmse = float(error.square().mean().sqrt())
    assert rmse == pytest.approx(result.measures["rmse"][0], rel=1e-3)
    program = torch.export.load(darts.export(tmp_path / "run", tmp_path / "net.pt2")).module()
    with torch.no_grad():
        given = program(images.test_images)
    torch.testing.assert_close(given, net(images.test_images).detach(), rtol=1e-5, atol=1e-2)


def test_several_labels_are_learnt() -> None:
    config = darts.configure_evaluation(
        genotype=CELL,
        data={"batch_size": 16, "loss": "bce", "class_weights": "balanced", "augment": False},
        network={"channels": 8, "cells": 1},
        training={"epochs": 12},
    )
    result = darts.evaluate(config, images=labelled(FLAGS, 192))
    assert result.measures["exact_match"][0] > 50  # chance is an eighth
    assert "all labels right" in result.summary()


def adapted(net: Any) -> None:
    """A stem of a user's own."""
    body = getattr(net, "skeleton", net)
    body.stem[0] = torch.nn.Conv2d(3, body.stem[0].out_channels, 5, padding=2, bias=False)


def test_the_short_training_after_a_search_is_of_what_was_searched(tmp_path: Path) -> None:
    data: Any = {"batch_size": 16, "loss": "bce", "class_weights": "balanced", "augment": False}
    supernet = SUPERNET | {"adapt": f"{__name__}:adapted"}
    out = str(tmp_path / "run")
    config = darts.configure(method="darts-v1", epochs=1, data=data, supernet=supernet, out=out)
    search = darts.Search(config, images=labelled(FLAGS))
    trained = short_evaluation(search, search.run())
    settings = yaml.safe_load((tmp_path / "run" / "evaluation" / "config.yaml").read_text())
    assert {name: settings["data"][name] for name in data} == data
    assert settings["network"]["adapt"] == config.supernet.adapt
    assert "all labels right" in trained.summary()


def test_a_loss_of_ones_own() -> None:
    data: Any = {"batch_size": 8, "loss": absolute}
    config = darts.configure(method="darts-v1", epochs=1, data=data, supernet=SUPERNET)
    assert config.data.loss == f"{__name__}:absolute"
    search = darts.Search(config, images=labelled(NUMBERS))
    assert search.net.criterion is absolute
    search.run()
    with pytest.raises(ConfigError, match=r"data\.loss must be a function at the top of a module"):
        darts.configure(data={"loss": lambda logits, labels: logits.sum()})


def test_labels_and_loss_must_suit_before_any_work() -> None:
    with pytest.raises(UserError, match="labels that are numbers; use mse"):
        darts.Search(darts.configure(data={"batch_size": 8}), images=labelled(NUMBERS))


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    height=st.integers(4, 21),
    width=st.integers(4, 21),
    dtype=st.sampled_from(list(KINDS)),
    space=st.sampled_from(["nb201", "darts"]),
)
def test_any_size_is_searched_trained_and_exported(
    height: int,
    width: int,
    dtype: torch.dtype,
    space: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out = tmp_path_factory.mktemp("run")
    images = labelled(dtype, 32, (height, width))
    data: Any = {"batch_size": 8, "loss": KINDS[dtype].loss}
    net: Any = {"channels": 4, "cells": 1 if space == "nb201" else 3}
    config = darts.configure(method="edd", space=space, epochs=1, data=data, supernet=net)
    genotype = darts.search(config, images=images).genotype
    asked = darts.configure_evaluation(
        genotype=str(genotype),
        out=str(out / "trained"),
        data=data,
        network=net,
        training={"epochs": 1},
    )
    darts.evaluate(asked, images=images)
    expected = darts.load_network(out / "trained")(images.test_images).detach()
    program = torch.export.load(darts.export(out / "trained", out / "net.pt2")).module()
    with torch.no_grad():
        torch.testing.assert_close(program(images.test_images), expected, rtol=1e-3, atol=1e-3)
