"""What is a layer's own; that it computes what a conventional one does is in test_supernet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from darts.networks.layers import LAYERS
from darts.networks.table import LayerPlace
from darts.spaces import Layers
from darts.supernet import Supernet, build_supernet
from darts.supernet.layer import SearchLayer
from tests.darts.chain_helpers import TINY


@pytest.fixture
def net() -> Supernet:
    torch.manual_seed(0)
    return build_supernet(TINY, channels=4, cells=1, classes=3)


@pytest.fixture
def gated() -> Iterator[str]:
    """A layer of a user's own."""
    LAYERS["gated"] = lambda inputs, outputs, stride, affine, track: nn.Sequential(
        nn.Conv2d(inputs, 2 * outputs, 1, stride), nn.GLU(1)
    )
    yield "gated"
    del LAYERS["gated"]


def uniform() -> dict[str, Tensor]:
    return {n: torch.full(c.shape, 1 / c.shape[1]) for n, c in TINY.cells.items()}


def test_a_layer_of_ones_own_is_run_as_it_is(gated: str) -> None:
    torch.manual_seed(0)
    table = Layers(1, ((0, 1),), ((gated, "mb_conv_3x3_e3", "skip_connect"),))
    layer = SearchLayer("keeping", table, LayerPlace(0, 4, 4, 1), True)
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    beta = torch.tensor([[0.2, 0.5, 0.3]])
    first, second = layer.candidates[0], layer.candidates[1]
    expected = 0.2 * first(x) + 0.5 * second(x) + 0.3 * x
    out = layer((x,), {"keeping": beta}, None)
    torch.testing.assert_close(out, expected)
    only = layer((x,), {"keeping": beta}, {"keeping": ((True, False, False),)})
    torch.testing.assert_close(only, 0.2 * first(x))


def test_a_layer_without_weights_gives_zero_and_zero_gradients(net: Supernet) -> None:
    zeros = {n: torch.zeros(c.shape, requires_grad=True) for n, c in TINY.cells.items()}
    live = {n: ((False,) * c.shape[1],) * c.shape[0] for n, c in TINY.cells.items()}
    loss = net(torch.randn(4, 3, 8, 8), zeros, live).sum()
    gradients = torch.autograd.grad(
        loss, list(zeros.values()), allow_unused=True, materialize_grads=True
    )
    assert not any(g.any() for g in gradients)


def test_paths_are_dropped_only_where_the_input_is_left(net: Supernet) -> None:
    images = torch.randn(8, 3, 8, 8)
    layers = net.search_cells().values()
    outputs: dict[int, list[Tensor]] = {}
    for layer in layers:
        assert isinstance(layer, SearchLayer)
        layer.register_forward_hook(
            lambda m, i, out: outputs.setdefault(m.place.number, []).append(out.detach())
        )
    net(images, uniform())
    net.drop_path = 0.9
    net(images, uniform())
    # The second layer changes the width: it is as it was on what enters it.
    assert not torch.equal(*outputs[0])
    changing = next(layer for layer in layers if layer.name == "changing")
    x = torch.randn(8, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(changing((x,), uniform(), None), changing((x,), uniform(), None))


def test_bfloat16_is_close_to_float32(net: Supernet) -> None:
    images = torch.randn(16, 3, 16, 16)
    with torch.no_grad():
        exact = net(images, uniform())
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(images, uniform()).float()
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).norm() / exact.norm()) < 0.05


def test_what_needs_cells_is_refused() -> None:
    with pytest.raises(
        ValueError, match="partial=4 needs operations on edges of cells, and tiny-chain is"
    ):
        build_supernet(TINY, channels=4, cells=1, classes=3, partial=4)
    with pytest.raises(ValueError, match="auxiliary_skip=True needs operations on edges of cells"):
        build_supernet(TINY, channels=4, cells=1, classes=3, auxiliary_skip=True)
