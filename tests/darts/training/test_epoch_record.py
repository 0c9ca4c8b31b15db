"""How often the device is read for an epoch's record."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from darts.data import load
from darts.recipes import configure
from darts.training.search import Search

READING = {
    Tensor.cpu,
    Tensor.tolist,
    Tensor.item,
    Tensor.numpy,
    Tensor.nonzero,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
}


class Host(Tensor):
    """Stands for what lies on the CPU, and so for all that is computed of it."""


class Reads(TorchFunctionMode):
    """Counts what would wait for the device if all but `Host` were there."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = func in READING and not isinstance(args[0], Host)
        self.count += reads
        out = func(*args, **(kwargs or {}))
        return out.clone().as_subclass(Host) if reads and func is Tensor.cpu else out


def test_it_counts_what_waits() -> None:
    x = torch.ones(3)
    with Reads() as reads:
        (x + x).relu()
        assert reads.count == 0
        y = x.cpu() + 1
        assert float(y[0]) == y.tolist()[1] == 2
        assert reads.count == 1
        assert x.sum() == 3
        x.tolist()
        float(x[0])
        x.nonzero()
        assert reads.count == 5


@pytest.mark.parametrize("method", ["darts-v1", "edd", "edd-reference-code"])
def test_the_device_is_read_for_the_steps_for_alpha_and_for_the_evaluation(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU, where operations are not left out: which ones would be read from β.
    monkeypatch.setattr("darts.training.held_out.captures", lambda device: True)
    config = configure(
        method=method,
        epochs=2,
        data={"batch_size": 64},
        supernet={"channels": 4, "cells": 1},
        arch={"warmup": 0},
    )
    search = Search(config, images=load("digits"))
    search.method.begin_epoch(0)
    search.method.prepare(search.net)
    for _, pair in zip(range(3), search.batches.epoch(), strict=False):
        search.losses.append(search.step(*pair))
    with Reads() as counted:
        losses = search.check_finite()
        assert counted.count == 1
        record = search.record(losses)
        assert counted.count == 3
    assert record["gradient_norms"]["cell"]
    assert record["discrete_accuracy"] > 0
