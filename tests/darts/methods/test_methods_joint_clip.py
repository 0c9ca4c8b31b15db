"""The clip over ω and α together, against a plain loop in the order of EDD's released code."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darts import Search, configure
from darts.data import Batch, ImageSet, load

TEMPERATURES = (1.0, 1.0, 0.0085, 0.0085, 0.002, 0.002)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    return Batch(images, torch.randint(10, (8,), generator=generator))


def make(images: ImageSet, **settings: Any) -> Search:
    config = configure(
        method="edd",
        data={"batch_size": 8},
        supernet={"channels": 4, "cells": 1},
        arch={"initial_scale": 0.01},
        **settings,
    )
    return Search(config, images=images)


def released_loop(search: Search, smooth: float | None) -> Iterator[tuple[Any, Tensor]]:
    """The network and α after each step of the released loop; the clip sees both."""
    net = copy.deepcopy(search.net).train()
    alpha = search.method.logits["cell"].detach().clone().requires_grad_()
    of_net = torch.optim.SGD(
        net.parameters(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    of_alpha = torch.optim.Adam([alpha], lr=3e-4, betas=(0.5, 0.999))

    def loss(data: Batch, t: float, smooth: float | None = None) -> Tensor:
        beta = torch.softmax(alpha / t, -1)
        if smooth is not None:
            q = torch.softmax(alpha / smooth, -1)
            beta = beta + q - q.detach()
        return F.cross_entropy(net(data.images, {"cell": beta}, None), data.labels)

    for step, t in enumerate(TEMPERATURES):
        of_net.zero_grad()
        loss(batch(2 * step), t).backward()
        torch.nn.utils.clip_grad_norm_([*net.parameters(), alpha], 5.0)
        of_net.step()
        of_alpha.zero_grad()
        loss(batch(2 * step + 1), t, smooth).backward()
        of_alpha.step()
        yield net, alpha


def differences(search: Search, smooth: float | None) -> list[float]:
    """The largest difference of α, ω and running statistics from the loop's, after each step."""
    found = []
    for step, (net, alpha) in enumerate(released_loop(search, smooth)):
        search.net.train()
        search.method.set_temperature(TEMPERATURES[step])
        search.step(batch(2 * step), batch(2 * step + 1))
        theirs = net.state_dict()
        gaps = [
            (value - theirs[name]).abs().max()
            for name, value in search.net.state_dict().items()
            if value.is_floating_point()
        ]
        gaps.append((search.method.logits["cell"] - alpha).detach().abs().max())
        found.append(float(torch.stack(gaps).max()))
    return found


@pytest.fixture
def images() -> ImageSet:
    return load("digits")


@pytest.mark.parametrize("smooth", [None, 1.0])
def test_every_step_is_the_released_loops(images: ImageSet, smooth: float | None) -> None:
    asked = {"smooth_temperature": smooth or 0, "joint_clip": True, "schedule": "paper"}
    search = make(images, options=asked)
    assert max(differences(search, smooth)) < 1e-9


def test_a_clip_of_the_weights_alone_parts_from_it_at_a_small_temperature(
    images: ImageSet,
) -> None:
    search = make(images, options={"smooth_temperature": 0})
    found = differences(search, None)
    assert found[0] < 1e-9
    assert found[2] > 1e-4


def test_a_resumed_search_clips_by_the_same_norm(images: ImageSet, tmp_path: Path) -> None:
    """The last arch step's gradient is part of the state."""
    torch.set_default_dtype(torch.float32)
    settings: dict[str, Any] = {"options": {"smooth_temperature": 0, "joint_clip": True}}
    first, second = make(images, **settings), make(images, **settings)
    for search in (first, second):
        search.net.train()
        search.method.set_temperature(0.002)

    def step(search: Search, seed: int) -> None:
        parts = [Batch(b.images.float(), b.labels) for b in (batch(2 * seed), batch(2 * seed + 1))]
        search.step(parts[0], parts[1])

    step(first, 0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for search in (first, second):
        step(search, 1)
    for name, value in first.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name


def test_the_released_script_by_name() -> None:
    config = configure(method="edd-reference-code", space="nb201")
    assert config.options == {
        **configure(method="edd").options,
        "smooth_temperature": 0.0,
        "lam": 0.04,
        "entropy": "sum",
        "joint_clip": True,
        "twice": False,
        "decimals": 0,
    }
    assert (config.data.batch_size, config.weights.clip) == (256, 5.0)
