"""Images of any size: odd ones, rectangles, down to 4x4."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darts.networks.network import build_network
from darts.spaces import SPACES
from darts.supernet import build_supernet
from tests.reference.supernet import ReferenceSupernet

SIDES = st.integers(4, 19)


@settings(max_examples=15, deadline=None)
@given(SIDES, SIDES, st.sampled_from(["nb201", "darts"]), st.sampled_from([1, 2]))
def test_a_supernet_takes_them_as_the_conventional_one(
    height: int, width: int, name: str, partial: int
) -> None:
    space = SPACES[name]
    torch.manual_seed(0)
    net = build_supernet(space, channels=4, cells=3, classes=5, partial=partial).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    weights = {
        cell: torch.randn(table.shape, dtype=torch.float64).softmax(-1).requires_grad_()
        for cell, table in space.cells.items()
    }
    out = net(x, weights, None)
    assert out.shape == (2, 5)
    found = torch.autograd.grad(out.square().sum(), list(weights.values()))
    assert all(g.isfinite().all() for g in found)
    if partial > 1:
        return
    reference = ReferenceSupernet(space, 4, 3, 5).double()
    state = net.conventional_views()
    with torch.no_grad():
        for key, value in reference.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                value.copy_(state[key])
    expected = reference(x, weights)
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-10)
    grads = torch.autograd.grad(expected.square().sum(), list(weights.values()))
    for ours, theirs in zip(found, grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["nb201", "darts"])
@pytest.mark.parametrize("size", [(27, 35), (7, 7), (4, 5)])
def test_a_found_network_takes_them(name: str, size: tuple[int, int]) -> None:
    space = SPACES[name]
    torch.manual_seed(0)
    some = space.derive({cell: torch.rand(table.shape) for cell, table in space.cells.items()})
    net = build_network(some, channels=4, cells=3, classes=5).eval()
    x = torch.randn(2, 3, *size)
    program = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(program(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["nb201", "darts"])
def test_even_sizes_keep_their_bits(name: str) -> None:
    """Nothing is padded, and no window is cut."""
    space = SPACES[name]
    torch.manual_seed(0)
    some = space.derive({cell: torch.rand(table.shape) for cell, table in space.cells.items()})
    net = build_network(some, channels=4, cells=3, classes=5).eval()
    x = torch.randn(2, 3, 8, 12)
    out = net(x)
    for module in net.modules():
        if isinstance(module, torch.nn.AvgPool2d):
            module.ceil_mode = False
    assert torch.equal(net(x), out)
