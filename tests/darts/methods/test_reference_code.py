"""What the released scripts of EDD and PCD do besides, space by space."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from darts import get_space
from darts.data import load, search_split
from darts.recipes import configure
from darts.training.search import Search
from tests.darts.methods.method_helpers import make, ranked, set_logits

NAMES = ("edd-reference-code", "pcd-reference-code")
STEP = SimpleNamespace()


@pytest.mark.parametrize("name", NAMES)
def test_settings_follow_the_space(name: str) -> None:
    by_space = {space: configure(method=name, space=space) for space in ("nb201", "darts", "s2")}
    for space, config in by_space.items():
        options = config.options
        assert options["joint_clip"] == config.data.keep_last == (space == "nb201")
        assert config.data.replacement == (space == "nb201")
        assert (options["twice"], options["decimals"]) == (
            (True, 3) if space == "s2" else (False, 0)
        )
    plain = name.split("-")[0]
    on_darts = by_space["darts"].options
    assert configure(method=plain, space="darts").options.items() <= on_darts.items()


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_step_takes_the_softmax_twice_on_s1_to_s4(name: str) -> None:
    method = make(name, space="s2")
    method.begin_epoch(10)
    method.set_temperature(0.3)
    for cell in ("normal", "reduce"):
        set_logits(method, ranked(14, 2), cell)
    once = torch.softmax(ranked(14, 2), -1)
    expected = torch.softmax(once / 0.3, -1)
    for beta in method.training_weights(STEP).values():
        torch.testing.assert_close(beta, expected)
        assert not beta.requires_grad
    torch.testing.assert_close(method.weights()["normal"], torch.softmax(ranked(14, 2) / 0.3, -1))


def test_architectures_are_read_from_three_decimals() -> None:
    method: Any = make("edd-reference-code", space="s3")  # none, skip_connect, sep_conv_3x3
    method.begin_epoch(0)
    alpha = torch.zeros(14, 3)
    alpha[0] = torch.tensor([0.0, 1e-4, 0.0])  # equal in three decimals: the last one wins
    alpha[1] = torch.tensor([-5.0, 1.0, 1e-2])
    alpha[2] = torch.tensor([0.0, 20.0, 0.0])
    alpha[3] = torch.tensor([0.0, 9.0, 0.0])  # 1.000 as well: of equal edges the first two win
    alpha[4] = torch.tensor([0.0, 30.0, 0.0])
    for cell in ("normal", "reduce"):
        set_logits(method, alpha, cell)
    found = get_space("s3").derive(method.scores()).cell("normal")
    chosen = [(c.operation, c.source) for c in found]
    assert set(chosen[:2]) == {("sep_conv_3x3", 0), ("skip_connect", 1)}
    assert chosen[2:4] == [("skip_connect", 0), ("skip_connect", 1)]
    assert (
        get_space("s3").derive(method.probabilities()).cell("normal")[0].operation == "skip_connect"
    )


@pytest.mark.parametrize("name", NAMES)
def test_figure_4b_as_the_released_loop_measures_it(name: str) -> None:
    """The record is the accuracy of softmax(α/1e-4) in evaluation mode, on the arch half."""
    settings: dict[str, Any] = {
        "epochs": 1,
        "data": {"batch_size": 128},
        "supernet": {"channels": 4, "cells": 1},
    }
    search = Search(configure(method=name, **settings), images=load("digits"))
    record = search.run_epoch()
    beta = {"cell": torch.softmax(search.method.logits["cell"].detach() / 1e-4, -1)}
    half = search_split(search.images, None)[1]
    images, labels = search.images.train_images[half], search.images.train_labels[half]
    search.net.eval()
    correct = 0
    with torch.no_grad():
        mean, deviation = search.images.normalization()
        scaled = (images.float() / 255 - mean[:, None, None]) / deviation[:, None, None]
        correct = int((search.net(scaled, beta).argmax(1) == labels).sum())
    assert record["running_accuracy"] == pytest.approx(100 * correct / len(labels), abs=0.3)
    search.net.train()
    by_batch, by_running = search.evaluate(beta), search.evaluate(beta, running_statistics=True)
    assert search.net.training
    for name_, buffer in search.net.named_buffers():
        if "mean" in name_:
            buffer.add_(1)
    assert search.evaluate(beta) == by_batch
    assert search.evaluate(beta, running_statistics=True)[0] != by_running[0]
    plain = Search(configure(method=name.split("-")[0], **settings), images=load("digits"))
    assert "running_accuracy" not in plain.run_epoch()
