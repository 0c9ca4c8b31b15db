"""The half of the images that α learns from, measured without augmentation."""

from __future__ import annotations

import pytest

from darts.data import load
from darts.recipes import configure
from darts.training import held_out
from darts.training.held_out import LARGE
from darts.training.search import Search


@pytest.fixture(scope="module")
def search() -> Search:
    config = configure(
        epochs=1, data={"batch_size": 16}, supernet={"channels": 4, "cells": 1}, seed=1
    )
    made = Search(config, images=load("digits"))
    for _, (weights, alphas) in zip(range(3), made.batches.epoch(), strict=False):
        made.step(weights, alphas)
    return made


def test_the_batch_is_no_matter_to_running_statistics_alone(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    beta = search.method.probabilities()
    found = {}
    for size in (16, 100):
        monkeypatch.setattr(search.held_out, "size", size)
        found[size] = [search.evaluate(beta, running_statistics=r) for r in (True, False)]
    running, of_the_batch = zip(found[16], found[100], strict=True)
    assert running[0] == pytest.approx(running[1], rel=1e-5)
    assert of_the_batch[0] != pytest.approx(of_the_batch[1], rel=1e-3)


def test_batches_are_large_on_a_gpu_where_they_are_no_matter(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = search.held_out._batch_size
    assert [sizes(True), sizes(False)] == [16, 16]
    monkeypatch.setattr(search.held_out, "device", "cuda")
    assert [sizes(True), sizes(False)] == [LARGE, 16]
    monkeypatch.setattr(held_out, "LARGE", 8)
    assert sizes(True) == 16
