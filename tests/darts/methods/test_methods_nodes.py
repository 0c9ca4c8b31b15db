"""Every method on a cell whose nodes choose what they read, or the sentence that says why not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import darts
from darts.config import ConfigError
from darts.data import ImageSet, load
from darts.methods import METHODS
from darts.networks.module_graph import ModuleGraph
from darts.networks.nb101 import to_graph
from darts.spaces import ONE_SHOT_2
from darts.training.search import Search
from tests.darts.methods.method_helpers import check_goes_on, make
from tests.darts.methods.test_methods_run import SHORT

EDGES = sorted(n for n, m in METHODS.items() if m.needs_cells)
ONE = sorted(n for n, m in METHODS.items() if m.settles_on_one and not m.needs_cells)
OTHERS = sorted(set(METHODS) - {*EDGES, *ONE})


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """24 digits of 8x8 pixels."""
    digits = load("digits")
    few = {name: getattr(digits, name)[:24] for name in ("train_labels", "test_labels")}
    few |= {n: getattr(digits, n)[:24, :, ::2, ::2] for n in ("train_images", "test_images")}
    return dataclasses.replace(digits, **few)


def prepared(method: str, images: ImageSet, **overrides: Any) -> Search:
    settings: dict[str, Any] = {
        "method": method,
        "space": "1shot1-2",
        "epochs": 1,
        "options": SHORT.get(method, {}),
        "data": {"batch_size": 6, "cutout": 0},
        "supernet": {"channels": 5, "cells": 1},
        "arch": {"warmup": 0},
    }
    return Search(darts.configure(**(settings | overrides)), images=images)


@pytest.mark.parametrize("method", OTHERS)
def test_runs_on_nodes(method: str, images: ImageSet) -> None:
    search = prepared(method, images)
    result = search.run()
    last = result.history[-1]
    assert math.isfinite(last["weight_loss"])
    assert 0 <= last["entropy"] <= math.log(5) + 1e-6
    assert darts.Genotype.parse(str(result.genotype)) == result.genotype
    graph = to_graph(result.genotype.cells)
    assert [len(graph.sources(v)) for v in range(1, 6)] == [1, 1, 2, 2, 3]
    assert all(p.isfinite().all() for p in search.method.parameters())


def test_those_that_run_are_most() -> None:
    assert {"edd", "gdas", "drnas", "darts-v1", "darts-v2", "gaea-erm", "random", "enas"} <= {
        *OTHERS
    }


@pytest.mark.parametrize("method", EDGES)
def test_what_needs_edges_says_so(method: str) -> None:
    sentence = f"method={method} needs operations on edges of cells, and space=1shot1-3 has them in"
    with pytest.raises(ConfigError, match=sentence):
        darts.configure(method=method, space="1shot1-3")


@pytest.mark.parametrize("method", ONE)
def test_what_settles_on_one_says_so(method: str) -> None:
    sentence = f"method={method} settles on one candidate .* space=1shot1-1 nodes read several"
    with pytest.raises(ConfigError, match=sentence):
        darts.configure(method=method, space="1shot1-1")


@pytest.mark.parametrize("method", ["random", "enas"])
def test_a_drawn_architecture_reads_as_many_as_the_space_says(method: str) -> None:
    made = make(method, space="1shot1-2")
    seen = set()
    for _ in range(40):
        weights = made.draw()
        for name, cell in ONE_SHOT_2.cells.items():
            assert ((weights[name] == 0) | (weights[name] == 1)).all()
            assert (weights[name].sum(-1) == cell.kept).all()
        seen.add(ModuleGraph.parse(str(ONE_SHOT_2.derive(weights))))
    assert len(seen) > 30
    if method == "enas":
        said = made.probabilities()
        for name, cell in ONE_SHOT_2.cells.items():
            expected = torch.full((cell.shape[0],), float(cell.kept))
            torch.testing.assert_close(said[name].sum(-1), expected)


@pytest.mark.parametrize("method", ["gdas", "reinmax", "surge"])
def test_operations_are_drawn_and_what_is_read_is_weighed(method: str) -> None:
    """As the authors' GDAS: relaxed samples of inputs, which are computed anyway."""
    made = make(method, space="1shot1-2")
    if method == "surge":
        made.advance()
    weights = made.weights()
    for name, cell in ONE_SHOT_2.cells.items():
        torch.testing.assert_close(weights[name].sum(-1), torch.ones(cell.shape[0]))
        assert bool(((weights[name] == 0) | (weights[name] == 1)).all()) is not cell.maps


@pytest.mark.parametrize("method", ["edd", "gdas"])
def test_an_interrupted_one_goes_on_with_the_same_bits(
    method: str, images: ImageSet, tmp_path: Path
) -> None:
    check_goes_on(images, lambda **settings: prepared(method, images, **settings), tmp_path)


def test_from_a_search_to_onnx(images: ImageSet, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    genotype = prepared("edd", images, out=str(tmp_path / "search")).run().genotype
    assert (tmp_path / "search" / "search.png").is_file()
    settings = darts.configure_evaluation(
        genotype=str(tmp_path / "search"),
        out=str(tmp_path / "trained"),
        data={"batch_size": 12},
        network={"channels": 6, "cells": 1},
        training={"epochs": 1},
    )
    assert darts.evaluate(settings, images=images).genotype == genotype
    darts.export(tmp_path / "trained", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    pixels = images.test_images[:5]
    expected = darts.load_network(tmp_path / "trained")(pixels).detach()
    (logits,) = session.run(None, {"images": pixels.numpy()})
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_what_a_budget_cannot_add_up_is_refused(images: ImageSet) -> None:
    with pytest.raises(ConfigError, match="sums over edges, and in space=1shot1-2"):
        prepared("edd", images, budget={"params": 1e5})
