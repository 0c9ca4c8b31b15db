"""Copies from a device, several at a time."""

from __future__ import annotations

import torch

from darts.devices.reading import read, snapshot


def test_read_gives_back_what_was_there() -> None:
    tensors = [
        torch.tensor(0.1),
        torch.randn(2, 3, requires_grad=True),
        torch.randn(4, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor([2**40 + 1]),
        torch.tensor([float("nan"), float("inf")]),
        torch.empty(0, 2),
    ]
    found = read(tensors)
    for x, y in zip(found, tensors, strict=True):
        assert not x.requires_grad
        torch.testing.assert_close(x, y.detach(), rtol=0, atol=0, equal_nan=True)


def test_a_snapshot_is_apart_and_keeps_strides() -> None:
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    state = {"net": {"w": weight}, "list": [weight[0, 0, 0, 0], 1.5, None], "pair": (3, {"a": "b"})}
    before = weight.detach().clone()
    copy = snapshot(state)
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(copy["net"]["w"], before)
    assert copy["net"]["w"].stride() == weight.stride()
    assert not copy["net"]["w"].requires_grad
    assert copy["list"][0] == before[0, 0, 0, 0]
    assert copy["list"][1:] == [1.5, None]
    assert copy["pair"] == (3, {"a": "b"})
