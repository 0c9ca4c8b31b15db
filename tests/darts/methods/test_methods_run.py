"""Every method, end to end, on a part of the digits."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from darts.data import ImageSet, load
from darts.methods import METHODS
from darts.methods.perturbation import PerturbationSelection
from darts.recipes import configure
from darts.results.run_folder import RunFolder
from darts.training.search import Callback, Search

LATE = ("drnas-progressive", "edd-pc", "pc-darts")
"""Methods whose α rests at first."""
SHORT = {
    **{name: {"samples": 3} for name in ("random", "enas", "setn")},
    "shapley-nas": {"orders": 1, "images": 64},
    "darts-es": {"every": 1, "window": 1, "lag": 1, "earliest": 0},
    **{name: {"interval": 1} for name in ("darts-pt", "darts-pt-fixed", "sdarts-rs-pt")},
    **{name: {"first": 1, "interval": 1} for name in ("sgas", "sgas-pt")},
}


@pytest.fixture(scope="module")
def images() -> ImageSet:
    digits = load("digits")
    few = {
        name: getattr(digits, name)[::5]
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }
    return dataclasses.replace(digits, **few)


def prepared(method: str, images: ImageSet, **overrides: Any) -> Search:
    config = configure(
        **{
            "method": method,
            "epochs": 2,
            "options": SHORT.get(method, {}),
            "data": {"batch_size": 64, "cutout": 0},
            "supernet": {"channels": 4, "cells": 1},
            "arch": {"warmup": 1 if method in LATE else 0},
            **overrides,
        }
    )
    return Search(config, images=images)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_runs_on_nb201(method: str, images: ImageSet) -> None:
    search = prepared(method, images)
    result = search.run()
    last = result.history[-1]
    assert math.isfinite(last["weight_loss"])
    assert 0 <= last["entropy"] <= math.log(5) + 1e-6
    assert len(result.genotype.cell("cell")) == 6
    assert all(p.isfinite().all() for p in search.net.parameters())
    assert all(p.isfinite().all() for p in search.method.parameters())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_two_runs_are_equal_and_so_is_an_interrupted_one(
    method: str, images: ImageSet, tmp_path: Path
) -> None:
    class Stop(Callback):
        def stepped(self, search: Search, step: Any, steps: int) -> None:
            if search.epoch == 1:
                raise KeyboardInterrupt

    def outcome(search: Search) -> Any:
        result = search.run()
        logs = [{k: v for k, v in r.items() if "seconds" not in k} for r in result.history]
        return str(result.genotype), logs

    settings = {"checkpoint_minutes": 1e-9}
    once = prepared(method, images, **settings)
    expected = outcome(once)
    out = str(tmp_path / "run")
    interrupted = prepared(method, images, **settings, out=out)
    interrupted.callbacks.append(Stop())
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = Search(interrupted.config, images=images, resume=True)
    assert resumed.epoch == 1
    assert outcome(resumed) == expected
    for p, q in zip(once.method.parameters(), resumed.method.parameters(), strict=True):
        assert torch.equal(p, q)
    for p, q in zip(once.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(p, q)
    assert len(RunFolder.open(out).records()) == len(expected[1])


DARTS_SPACES = [
    *[(method, "s1") for method in sorted(METHODS)],
    *[(method, "darts") for method in ("edd", "gdas", "random", "sgas-pt")],
    *[(method, "s4") for method in ("darts-minus", "edd-pc")],
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "space"), DARTS_SPACES)
def test_runs_on_the_darts_spaces(method: str, space: str, images: ImageSet) -> None:
    few = dataclasses.replace(
        images, train_images=images.train_images[:64], train_labels=images.train_labels[:64]
    )
    search = prepared(
        method,
        few,
        space=space,
        epochs=1,
        data={"batch_size": 32, "cutout": 0},
        # Progressive DrNAS sends one channel in six through the operations there.
        supernet={"channels": 12 if method == "drnas-progressive" else 4, "cells": 3},
    )
    genotype = search.run().genotype
    assert [len(genotype.cell(name)) for name in ("normal", "reduce")] == [8, 8]
    if isinstance(search.method, PerturbationSelection):
        for name, cell in search.space.cells.items():
            for node in cell.nodes:
                kept = [e for e in cell.incoming(node) if search.method.fixed[name][e] >= 0]
                chosen = [c for c in genotype.cell(name) if c.target == node]
                assert [cell.edges[e] for e in kept] == [(c.source, c.target) for c in chosen]
                assert [cell.candidates[e][search.method.fixed[name][e]] for e in kept] == [
                    c.operation for c in chosen
                ]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_runs_in_bfloat16(method: str, images: ImageSet) -> None:
    supernet = {"channels": 4, "cells": 1, "precision": "bfloat16"}
    half = prepared(method, images, epochs=1, supernet=supernet).run().history[-1]
    supernet |= {"precision": "float32"}
    full = prepared(method, images, epochs=1, supernet=supernet).run().history[-1]
    assert half["weight_loss"] != full["weight_loss"]
    assert half["weight_loss"] == pytest.approx(full["weight_loss"], rel=0.1)


ON_A_GPU = [("edd", "bfloat16"), ("gdas", "bfloat16"), *((m, "float32") for m in sorted(METHODS))]


@pytest.mark.parametrize(("method", "precision"), ON_A_GPU)
def test_runs_on_a_gpu(method: str, precision: str, images: ImageSet, cuda: torch.device) -> None:
    supernet = {"channels": 4, "cells": 1, "precision": precision}
    search = prepared(method, images, device=cuda.type, supernet=supernet)
    result = search.run()
    assert math.isfinite(result.history[-1]["weight_loss"])
    assert all(p.isfinite().all() for p in search.net.parameters())
    assert all(p.isfinite().all() and p.is_cuda for p in search.method.parameters())


@pytest.mark.parametrize("method", ["edd", "gdas", "drnas-progressive"])
def test_an_interrupted_one_goes_on_on_a_gpu(
    method: str,
    images: ImageSet,
    tmp_path: Path,
    cuda: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = {"device": cuda.type, "epochs": 3}
    once = prepared(method, images, **settings)
    once.run()

    class Stop(Callback):
        def stepped(self, search: Search, step: Any, steps: int) -> None:
            if search.epoch == 1 and step == 2:
                raise KeyboardInterrupt

    settings |= {"out": str(tmp_path / "run"), "checkpoint_minutes": 1e-9}
    interrupted = prepared(method, images, **settings)
    interrupted.callbacks.append(Stop())
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = Search(interrupted.config, images=images, resume=True)
    resumed.run()
    for p, q in zip(once.method.parameters(), resumed.method.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_says_where_it_comes_from(name: str) -> None:
    method = METHODS[name]
    module = __import__(method.__module__, fromlist=["x"])
    assert method.summary
    assert len(module.__doc__ or "") > 150
