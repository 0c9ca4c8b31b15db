"""Every method on a chain of layers, or the sentence that says why not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import darts
from darts.config import ConfigError
from darts.data import ImageSet, load
from darts.methods import METHODS
from darts.spaces import SPACES
from darts.training.search import Search
from tests.darts.chain_helpers import TINY
from tests.darts.methods.method_helpers import check_goes_on
from tests.darts.methods.test_methods_run import SHORT


@pytest.fixture(autouse=True)
def _entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, TINY.name, TINY)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """48 digits."""
    digits = load("digits")
    few = {
        name: getattr(digits, name)[:48]
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }
    return dataclasses.replace(digits, **few)


def prepared(method: str, images: ImageSet, **overrides: Any) -> Search:
    settings: dict[str, Any] = {
        "method": method,
        "space": TINY.name,
        "epochs": 1,
        "options": SHORT.get(method, {}),
        "data": {"batch_size": 12, "cutout": 0},
        "supernet": {"channels": 4},
        "arch": {"warmup": 0},
    }
    return Search(darts.configure(**(settings | overrides)), images=images)


@pytest.mark.parametrize("method", sorted(n for n, m in METHODS.items() if not m.needs_cells))
def test_runs_on_a_chain(method: str, images: ImageSet) -> None:
    search = prepared(method, images)
    result = search.run()
    assert math.isfinite(result.history[-1]["weight_loss"])
    assert darts.Genotype.parse(str(result.genotype)) == result.genotype
    assert [len(choices) for _, choices in result.genotype.cells] == [1, 3]
    assert all(p.isfinite().all() for p in search.method.parameters())


@pytest.mark.parametrize("method", sorted(n for n, m in METHODS.items() if m.needs_cells))
def test_what_needs_cells_says_so(method: str) -> None:
    with pytest.raises(
        ConfigError, match=f"method={method} needs operations on .* space=tiny-chain"
    ):
        darts.configure(method=method, space=TINY.name)


@pytest.mark.parametrize("method", ["edd", "gdas", "drnas"])
def test_an_interrupted_one_goes_on_with_the_same_bits(
    method: str, images: ImageSet, tmp_path: Path
) -> None:
    check_goes_on(images, lambda **settings: prepared(method, images, **settings), tmp_path)


def test_from_a_search_within_a_budget_to_onnx(images: ImageSet, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    search = prepared(
        "edd", images, budget={"params": 4_500, "channels": 4}, out=str(tmp_path / "search")
    )
    genotype = search.run().genotype
    assert (tmp_path / "search" / "search.png").is_file()
    settings = darts.configure_evaluation(
        genotype=str(tmp_path / "search"),
        out=str(tmp_path / "trained"),
        data={"batch_size": 12},
        network={"channels": 4, "drop_path": 0.1},
        training={"epochs": 1},
    )
    found = darts.evaluate(settings, images=images)
    assert found.genotype == genotype
    assert search.budget is not None
    assert found.parameters == search.budget.costs(genotype)["params"] <= 4_500
    darts.export(tmp_path / "trained", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    pixels = images.test_images[:5]
    expected = darts.load_network(tmp_path / "trained")(pixels).detach()
    (logits,) = session.run(None, {"images": pixels.numpy()})
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
