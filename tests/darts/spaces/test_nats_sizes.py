"""NATS-Bench's size space."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import darts
from darts.config import ConfigError
from darts.data import load
from darts.networks.genotype import Genotype
from darts.networks.network import build_network
from darts.spaces import NATS_SIZES, Space
from darts.supernet import Supernet, build_supernet


@pytest.fixture
def net() -> Supernet:
    torch.manual_seed(0)
    return build_supernet(NATS_SIZES, channels=8, cells=1, classes=3)


def chosen(*columns: int) -> dict[str, Tensor]:
    """β that has one width a layer, column k being (k + 1) eighths."""
    return {"widths": torch.eye(8)[list(columns)]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64:64:64:64:64", 713_674), ("8:64:48:16:24", 200_066), ("40:8:8:56:64", 293_490)],
)
def test_sizes_are_those_of_the_authors_network(text: str, expected: int) -> None:
    """Counted on AutoDL-Projects' DynamicShapeTinyNet, whose logits are the same to the last bit
    with the same weights."""
    with torch.device("meta"):
        net = build_network(text, channels=64, cells=1, classes=10)
    assert sum(p.numel() for p in net.parameters()) == expected


def test_text_round_trip() -> None:
    genotype = NATS_SIZES.derive(chosen(0, 7, 5, 1, 2))
    assert str(genotype) == "8:64:48:16:24"
    assert Genotype.parse("8:64:48:16:24") == genotype
    for text, complaint in (("8:64", "must have 5 widths"), ("8:64:9:8:8", "has a width other")):
        with pytest.raises(ValueError, match=complaint):
            Genotype.parse(text)


def test_a_width_is_the_first_channels_of_one_kernel(net: Supernet) -> None:
    """What is masked out has no part in the logits, and what is not has one."""
    images, beta = torch.randn(4, 3, 8, 8), chosen(3, 3, 3, 3, 3)
    before = net(images, beta).detach()
    convolution = net.get_parameter("skeleton.cells.1.block.conv_b.1.weight")
    with torch.no_grad():
        convolution[4:] += 1
        assert torch.equal(net(images, beta), before)
        convolution[3] += torch.randn_like(convolution[3])
        assert not torch.equal(net(images, beta), before)


def test_the_whole_width_is_the_network_without_masks(net: Supernet) -> None:
    whole = build_network("64:64:64:64:64", channels=8, cells=1, classes=3)
    names = list(whole.state_dict())
    whole.load_state_dict(dict(zip(names, net.skeleton.state_dict().values(), strict=True)))
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(net(images, chosen(7, 7, 7, 7, 7)), whole(images))


def test_beta_has_the_gradient_of_its_masks(net: Supernet) -> None:
    net.double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    beta = torch.rand(5, 8, dtype=torch.float64).softmax(-1).requires_grad_()
    net.eval()
    torch.autograd.gradcheck(lambda b: net(images, {"widths": b}), [beta])


@pytest.mark.parametrize("method", ["edd", "gdas", "drnas", "random", "sgas", "darts-pt"])
def test_is_searched(method: str) -> None:
    digits = load("digits")
    names = ("train_images", "train_labels", "test_images", "test_labels")
    few = dataclasses.replace(digits, **{name: getattr(digits, name)[:32] for name in names})
    short: dict[str, Any] = {
        "random": {"samples": 2},
        "sgas": {"first": 1, "interval": 1},
        "darts-pt": {"interval": 1},
    }
    config = darts.configure(
        method=method,
        space="nats-sizes",
        epochs=1,
        data={"batch_size": 8},
        supernet={"channels": 8},
        options=short.get(method, {}),
    )
    genotype = darts.search(config, images=few).genotype
    assert Genotype.parse(str(genotype)) == genotype


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="channels=12 must be a multiple of 8"):
        build_supernet(NATS_SIZES, channels=12, cells=1, classes=3)
    with pytest.raises(ValueError, match="cells=2 must be 1, since the space has five layers"):
        build_supernet(NATS_SIZES, channels=8, cells=2, classes=3)
    table = NATS_SIZES.cells["widths"]
    fewer = dataclasses.replace(table, edges=table.edges[:2], candidates=table.candidates[:2])
    with pytest.raises(ValueError, match=r"must be .* for 'nats-sizes'"):
        Space("mine", "nats-sizes", {"widths": fewer})
    config = darts.configure(space="nats-sizes", budget={"params": 1e5}, supernet={"channels": 8})
    with pytest.raises(ConfigError, match="sums over edges, and in space=nats-sizes"):
        darts.Search(config, images=load("digits"))
