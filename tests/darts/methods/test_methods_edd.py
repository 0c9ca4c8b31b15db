"""Temperatures and sn-softmax: EDD, PCD, LPCD."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from darts import Search
from darts.methods.base import entropy
from darts.recipes import configure
from tests.darts.methods.method_helpers import LinearLoss, make, ranked, set_logits

PAPER = {"schedule": "paper"}


def test_edd_temperatures_on_recorded_entropies_released_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop of the released NB201 script, in the mean's scale, on recorded entropies."""
    entropies = iter([1.6, 1.55, 1.3, 1.0, 0.7, 0.5, *[0.4 - 0.03 * i for i in range(10)]])
    values = []
    method = make("edd", options={"lam": 0.24}, epochs=50)

    def recorded() -> float:
        values.append(next(entropies))
        return values[-1]

    monkeypatch.setattr(method, "mean_entropy", recorded)
    found = []
    for epoch in range(50):
        method.begin_epoch(epoch)
        found.append(float(method.temperature))
    replay = iter(values)
    temperature, decay, count, interval, expected = 1.0, 0.0, 1, 5, []
    for epoch in range(50):
        if epoch == 10 or (epoch > 10 and epoch % interval == 0):
            h = next(replay)
            if epoch > 39:
                interval = 1
            decay = (0.24 if epoch <= 39 else 0.48) * h * 0.5 + 0.5 * decay
            temperature = 0.000399 / math.log(1 + decay * count)
            count += 1
        expected.append(temperature)
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(values) == 16


def test_edd_temperatures_on_recorded_entropies_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("edd", options={"schedule": "paper", "lam": 0.12}, epochs=6)
    entropies = [1.6, 1.5, 1.2, 0.8, 0.1]
    replay = iter(entropies)
    monkeypatch.setattr(method, "mean_entropy", lambda: next(replay))
    e = float(method.logits["cell"].detach().clamp(min=0).mean())
    strength, expected = 0.0, [1.0]
    for k, h in enumerate(entropies, start=1):
        strength = 0.12 * 0.5 * h + 0.5 * strength
        expected.append(e / math.log(math.exp(e) + k * strength))
    found = []
    for epoch in range(6):
        method.begin_epoch(epoch)
        found.append(float(method.temperature))
    assert found == pytest.approx(expected, rel=1e-5)


def test_edd_measures_what_each_account_says() -> None:
    a = ranked()
    code = make("edd")
    set_logits(code, a)
    code.set_temperature(0.1)
    sharp = entropy(torch.softmax(a / 0.1, -1))
    assert code.mean_entropy() == pytest.approx(float(sharp.mean()), rel=1e-5)
    summed = make("edd", options={"entropy": "sum"})
    set_logits(summed, a)
    summed.set_temperature(0.1)
    assert summed.mean_entropy() == pytest.approx(float(sharp.sum()), rel=1e-5)
    text = make("edd", options={"schedule": "paper"})
    set_logits(text, a)
    text.set_temperature(0.1)
    assert text.mean_entropy() == pytest.approx(
        float(entropy(torch.softmax(a, -1)).mean()), rel=1e-5
    )


def test_edd_on_the_darts_space_follows_the_normal_cell_in_the_code_only() -> None:
    code, text = (
        make("edd", space="s1", options={"schedule": s}) for s in ("reference-code", "paper")
    )
    assert set(code.measured()) == {"normal"}
    assert set(text.measured()) == {"normal", "reduce"}
    assert not code.smoothed("normal")
    code.begin_epoch(5)
    assert code.decay.updates == 1
    assert code.smoothed("normal")
    assert not code.smoothed("reduce")
    assert text.smoothed("reduce")


@pytest.mark.parametrize(
    ("name", "value", "smooth"),
    [
        ("smooth_temperature", 0, None),
        ("smooth_temperature", 1, 1.0),
        ("smooth_temperature", 0.5, 0.5),
        ("scale", 100, 100 * 0.02),
    ],
)
def test_sn_softmax_keeps_a_gradient_where_softmax_has_none(
    name: str, value: float, smooth: float | None
) -> None:
    method = make("edd", options={name: value})
    method.begin_epoch(10)
    method.set_temperature(0.02)
    a = ranked() * 20
    set_logits(method, a)
    beta = method.weights()["cell"]
    torch.testing.assert_close(beta, torch.softmax(a / 0.02, -1))
    c = ranked().flip(0)
    (gradient,) = torch.autograd.grad((beta * c).sum(), method.logits["cell"])
    expected = torch.zeros(6, 5)
    for t in (0.02, smooth) if smooth else (0.02,):
        p = torch.softmax(a / t, -1)
        expected += p * (c - (p * c).sum(-1, keepdim=True)) / t
    torch.testing.assert_close(gradient, expected)
    if smooth:
        assert gradient.abs().max() > 0
    else:
        assert gradient.abs().max() == 0


def test_clip_bounds_the_norm_of_the_gradient() -> None:
    method = make("edd-clip", arch={"clip": 0.5})
    seen: list[Any] = []
    method.arch_update = seen.append
    for scale in (100.0, 0.001):
        loss = LinearLoss(scale * ranked())
        method.arch_step(SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=loss))
    assert float(seen[0][0].norm()) == pytest.approx(0.5, rel=1e-4)
    assert float(seen[1][0].norm()) < 0.01
    assert configure(method="edd-clip").arch.clip == 5.0
    assert configure(method="edd").arch.clip == 0.0


def test_pcd_and_lpcd_follow_their_lists() -> None:
    for name, low in (("pcd", 3.99e-4 / math.log(1 + 0.11 * 10)), ("lpcd", 5e-4)):
        method = make(name)
        temperatures = []
        for epoch in range(50):
            method.begin_epoch(epoch)
            temperatures.append(float(method.temperature))
        assert min(temperatures) == pytest.approx(temperatures[-1]) == pytest.approx(low, rel=1e-5)
        assert temperatures[10:20] == temperatures[20:30]


@pytest.mark.parametrize("schedule", ["reference-code", "paper"])
def test_edd_stable_moves_alpha_from_the_first_drop_on(schedule: str) -> None:
    method, plain = (make(name, options={"schedule": schedule}) for name in ("edd-stable", "edd"))
    start = method.state_dict()["parameters"][0]
    moved = []
    for epoch in range(50):
        for each in (method, plain):
            each.begin_epoch(epoch)
        assert plain.alpha_moves
        assert method.alpha_moves == bool(method.temperature < 1)
        moved.append(method.alpha_moves)
    assert moved == [False] * 10 + [True] * 40
    torch.testing.assert_close(method.logits["cell"], start)


def test_edd_stable_follows_the_texts_schedule_after_its_warm_up() -> None:
    """Of the same entropies, the text's temperatures, nine epochs later."""
    temperatures = {}
    for name, method in (("stable", make("edd-stable")), ("text", make("edd", options=PAPER))):
        found = []
        for epoch in range(50):
            method.begin_epoch(epoch)
            found.append(float(method.temperature))
        temperatures[name] = found
    assert temperatures["stable"][:10] == [1.0] * 10
    assert temperatures["stable"][10:] == temperatures["text"][1:41]
    assert temperatures["text"][0] == 1.0 > temperatures["text"][1]


def test_a_search_of_edd_stable_leaves_alpha_alone_until_the_first_drop() -> None:
    config = configure(
        method="edd-stable",
        epochs=5,
        data={"source": "digits", "batch_size": 256},
        supernet={"channels": 4, "cells": 1},
    )
    search = Search(config)
    start = search.method.logits["cell"].detach().clone()
    moved = []
    for _ in range(3):
        search.run_epoch()
        search.epoch += 1
        moved.append(not torch.equal(search.method.logits["cell"], start))
        assert bool(search.method.temperature < 1) is moved[-1]
    assert moved == [False, True, True]
