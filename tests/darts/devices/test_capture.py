"""Steps that claim to be capturable can be recorded once and replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from darts.data import Batch, ImageSet, load
from darts.devices.capture import WARM_UP, CapturedStep, set_learning_rate
from darts.methods import METHODS
from darts.methods.darts_v1 import DARTSV1
from darts.recipes import configure
from darts.training.search import Search

HOST = ("aten::_local_scalar_dense", "aten::lift_fresh", "aten::nonzero", "aten::masked_select")
"""What reads a value from the device, or copies one to it."""
CAPTURABLE = sorted(name for name, method in METHODS.items() if method.capturable)


class Recording(TorchDispatchMode):
    """Stands in for a CUDA graph: the operators of a step with the very tensors they worked on.

    A replay runs them again, as they were called, and puts each result where the recorded one is;
    nothing of the step's Python runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert func.name() not in HOST, f"a captured step may not call {func.name()}"
        out = func(*args, **kwargs)
        held = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        leaves = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        made = [x if _storage(x) not in held else None for x in leaves]
        self.calls.append((func, args, kwargs, made))  # type: ignore[arg-type]
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self.calls:
            again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for recorded, x in zip(made, again, strict=True):
                if recorded is not None and recorded.numel():
                    recorded.copy_(x)


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    digits = load("digits")
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return dataclasses.replace(digits, **{n: getattr(digits, n)[::10] for n in names})


OPTIONS = {"shapley-nas": {"orders": 1, "images": 64}}
"""Of methods that decide between epochs at length."""


def prepared(method: str, images: ImageSet, device: str = "cpu", epochs: int = 4) -> Search:
    config = configure(
        method=method,
        epochs=epochs,
        device=device,
        data={"batch_size": 8, "cutout": 0},
        supernet={"channels": 4, "cells": 1, "zero_skip": False},  # CUDA never skips
        arch={"warmup": 0},
        options=OPTIONS.get(method, {}),
    )
    search = Search(config, images=images)
    search.method.begin_epoch(2)
    if search.method.supernet_options() != search._built_with:
        search._rebuild()
    search.method.prepare(search.net)
    search.net.train()
    return search


def state(search: Search) -> list[Tensor]:
    method = search.method.state_dict()
    tensors = [*search.net.state_dict().values(), *method["parameters"], method["gradient_norms"]]
    return [x.clone() for x in tensors]


def run(search: Search, step: Callable[[Batch, Batch], Tensor]) -> list[Tensor]:
    """Three steps to warm up, one that is recorded, two more."""
    torch.manual_seed(1)
    losses = []
    before = state(search)
    for i, pair in zip(range(6), search.batches.epoch(), strict=False):
        set_learning_rate(search.optimizer, 0.1 / (i + 1), search.config.device)
        losses.append(step(*pair).clone())
    after = state(search)
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) / 2
    return [*losses, *after]


@pytest.mark.parametrize("method", CAPTURABLE)
def test_a_replayed_step_is_the_step(
    method: str, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("a captured step may not read values back")

    eager = prepared(method, images)
    expected = run(eager, eager.step)
    search = prepared(method, images)
    recording = Recording()
    calls = 0
    inputs: list[Tensor] = []
    output = torch.empty(0)

    def recorded_step(weight_batch: Batch, arch_batch: Batch) -> Tensor:
        nonlocal calls, inputs, output
        calls += 1
        if calls <= 3:
            return search.step(weight_batch, arch_batch)
        if calls == 4:
            inputs = [x.clone() for x in (*weight_batch, *arch_batch)]
            with recording, monkeypatch.context() as patches:
                patches.setattr(Tensor, "tolist", refuse)  # on the CPU it is no operator
                output = search.step(Batch(*inputs[:2]), Batch(*inputs[2:]))
        else:
            for held, x in zip(inputs, (*weight_batch, *arch_batch), strict=True):
                held.copy_(x)
            recording.replay()
        return output

    found = run(search, recorded_step)
    assert len(recording.calls) > 100
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("method", CAPTURABLE)
def test_a_replayed_graph_is_the_step(
    method: str, images: ImageSet, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    eager = prepared(method, images, cuda.type)
    expected = run(eager, eager.step)
    search = prepared(method, images, cuda.type)
    found = run(search, search.captured_step())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_warm_up_and_recording_name_their_device_and_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else they would take those that are current, which need not be the inputs'."""
    called: list[tuple[object, ...]] = []
    device = torch.device("meta")

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            called.append(("wait", self.name, other.name))

    class Graph:
        def replay(self) -> None:
            called.append(("replay",))

        def register_generator_state(self, generator: object) -> None:
            called.append(("generator", generator))

    def inside(*names: object, stream: Stream | None = None) -> AbstractContextManager[None]:
        parts = [part.name if isinstance(part, Stream) else part for part in names]
        called.append(("inside", *parts, *([stream.name] if stream else [])))
        return nullcontext()

    monkeypatch.setattr("darts.devices.capture.captures", lambda device: True)
    monkeypatch.setattr(torch.cuda, "device", inside)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(("side", device)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(("current", device)))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(
        torch.cuda, "graph", lambda graph, *, stream: inside("graph", stream=stream)
    )

    def step(x: Tensor) -> list[Tensor]:
        called.append(("step",))
        return [x]

    generator = torch.Generator()
    captured = CapturedStep(step, generator)
    side, current = ("side", device), ("current", device)
    warms = [("wait", side, current), ("inside", side), ("step",), ("wait", current, side)]
    rounds: list[list[tuple[object, ...]]] = [[*warms] for _ in range(WARM_UP)]
    rounds += [[("generator", generator), ("inside", "graph", side), ("step",), ("replay",)]]
    rounds += [[("replay",)]]
    for expected in rounds:
        called.clear()
        captured(torch.empty(2, device=device))
        assert called == [("inside", device), *expected]


STEADY = sorted(name for name, method in METHODS.items() if vars(method).get("steady"))


@pytest.mark.parametrize("method", STEADY)
def test_a_step_recorded_in_one_epoch_is_the_step_of_later_ones(
    method: str, images: ImageSet
) -> None:
    """What changes between epochs lies in tensors that keep their place, or in `switches`."""

    def steps(recorded: bool) -> tuple[list[Tensor], int]:
        search = prepared(method, images, epochs=20)
        torch.manual_seed(1)
        recording, wanted, replays = Recording(), None, 0
        inputs: list[Tensor] = []
        pairs = search.batches.epoch()
        for epoch in (11, 12, 15, 18):
            search.method.begin_epoch(epoch)
            if search.method.supernet_options() != search._built_with:
                search._rebuild()
            search.method.prepare(search.net)
            rate = search.method.learning_rate(epoch)
            set_learning_rate(search.optimizer, rate, search.config.device)
            for pair in (next(pairs), next(pairs)):
                if not recorded or search.method.recorded_for() != wanted:
                    wanted, inputs = search.method.recorded_for(), []
                    search.step(*pair)  # warms up
                elif not inputs:
                    inputs = [x.clone() for x in (*pair[0], *pair[1])]
                    recording = Recording()
                    with recording:
                        search.step(Batch(*inputs[:2]), Batch(*inputs[2:]))
                else:
                    for held, x in zip(inputs, (*pair[0], *pair[1]), strict=True):
                        held.copy_(x)
                    recording.replay()
                    replays += 1
            search.method.end_epoch(search)
        return state(search), replays

    expected, _ = steps(recorded=False)
    found, replays = steps(recorded=True)
    assert replays >= 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_subclass_says_for_itself_that_it_is_steady(images: ImageSet) -> None:
    class Own(DARTSV1):
        pass

    search = prepared("darts-v1", images)
    same = search.method.recorded_for()
    search.method.begin_epoch(3)
    assert search.method.recorded_for() == same
    own = Own(search.space, search.config)
    for epoch in (2, 3):
        own.begin_epoch(epoch)
        assert own.recorded_for() == epoch


def test_a_recorded_step_is_kept_until_it_is_wrong(images: ImageSet) -> None:
    search = prepared("darts-v1", images)

    def graph() -> object:
        search.captured_step()
        assert search._captured
        return search._captured[1]

    first = graph()
    search.method.begin_epoch(3)
    assert graph() is first
    search.method.optimizer = search.method.make_optimizer()
    second = graph()
    assert second is not first
    search.load_state_dict(search.state_dict())
    assert graph() is not second
    third = graph()
    search._rebuild()
    assert graph() is not third


def test_some_methods_cannot_be_captured() -> None:
    """One unrolls a step, the other's controller draws between steps; any other is recorded."""
    uncapturable = set(METHODS) - set(CAPTURABLE)
    assert uncapturable == {"darts-v2", "enas"}
