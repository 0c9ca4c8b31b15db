"""The supernets that this project's is compared with."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.rivals import Size, conventional_step
from darts.spaces import NB201
from tests.reference.supernet import ReferenceSupernet


def test_the_strongest_rival_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU it is traced, but not compiled, which would take a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    found: list[list[Tensor]] = []

    def noted(*arguments: Any) -> Any:
        torch.manual_seed(1)
        net = ReferenceSupernet(*arguments)
        found.append(list(net.parameters()))
        return net

    monkeypatch.setattr("bench.rivals.ReferenceSupernet", noted)
    for strong in (False, True):
        run = conventional_step(NB201, Size(channels=4, batch=4), tuned=strong, compiled=strong)
        for _ in range(3):
            run()
    for usual, other in zip(*found, strict=True):
        torch.testing.assert_close(other, usual, rtol=1e-3, atol=1e-4)
