"""Stand-alone networks: known sizes, the right functions, the evaluation extras."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from darts.networks.network import build_network
from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import Conv2d, DepthwiseConv2d, ReLU
from darts.networks.stacked import StackedSkeleton
from darts.networks.two_inputs import TwoInputNetwork
from darts.spaces import SPACES
from tests.darts.networks.test_genotype import DARTS_V2
from tests.reference.supernet import conventional

RESNET_LIKE = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|none~2|"


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


BEST_CIFAR100 = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
ALL_SKIP = BEST_CIFAR100.replace("nor_conv_3x3", "skip_connect")


@pytest.mark.parametrize(("arch", "expected"), [(BEST_CIFAR100, 1_288_506), (ALL_SKIP, 73_306)])
def test_nb201_sizes_are_the_benchmarks(arch: str, expected: int) -> None:
    """Parameters as the benchmark lists them (architectures 9930 and 1835)."""
    net = build_network(arch, channels=16, cells=5, classes=10)
    assert isinstance(net, StackedSkeleton)
    assert len(net.cells) == 17
    assert parameters(net) == expected


def test_darts_v2_has_3_3_million_parameters() -> None:
    """Table 1 of Liu et al. (2019); the auxiliary head is not counted."""
    net = build_network(DARTS_V2, channels=36, cells=20, classes=10)
    assert parameters(net) == pytest.approx(3.35e6, rel=0.01)


def test_nb201_cell_sums_its_edges() -> None:
    net = build_network(RESNET_LIKE, channels=4, cells=1, classes=10).eval()
    assert isinstance(net, StackedSkeleton)
    cell = net.cells[0]
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(cell(x), x)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_every_space_builds_its_network(name: str) -> None:
    space = SPACES[name]
    torch.manual_seed(0)
    weights = {n: torch.rand(c.shape) for n, c in space.cells.items()}
    cells = 4 if space.leaves_edges_out else 1
    net = build_network(space.derive(weights), channels=8, cells=cells, classes=7)
    logits = net(torch.randn(3, 3, 16, 16))
    assert logits.shape == (3, 7)
    logits.sum().backward()


def test_auxiliary_head_only_while_training() -> None:
    net = build_network(DARTS_V2, channels=4, cells=5, classes=10, auxiliary=True)
    images = torch.randn(2, 3, 32, 32)
    logits, auxiliary = net(images)
    assert logits.shape == auxiliary.shape == (2, 10)
    assert isinstance(net.eval()(images), torch.Tensor)


def test_drop_path_drops_samples_only_while_training() -> None:
    torch.manual_seed(0)
    net = build_network(DARTS_V2, channels=4, cells=3, classes=10)
    assert isinstance(net, TwoInputNetwork)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(images), net(images))
        net.drop_path = 0.5
        assert not torch.equal(net(images), net(images))
        net.eval()
        assert torch.equal(net(images), net(images))
    with pytest.raises(ValueError, match=r"drop_path=1.0 must be in \[0, 1\)"):
        net.drop_path = 1.0


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="cells=0 must be at least 1"):
        build_network(RESNET_LIKE, channels=4, cells=0, classes=10)
    with pytest.raises(ValueError, match="auxiliary=True needs a genotype of darts, "):
        build_network(RESNET_LIKE, channels=4, cells=1, classes=10, auxiliary=True)


@pytest.mark.parametrize(("arch", "channels"), [(DARTS_V2, 4), (DARTS_V2, 16), (RESNET_LIKE, 16)])
def test_layers_are_pytorchs_in_value_and_gradient(arch: str, channels: int) -> None:
    """Those of our own are used while training, and are the same functions."""
    torch.manual_seed(0)
    net = build_network(arch, channels=channels, cells=3, classes=10).double()
    other = conventional(copy.deepcopy(net))
    own = Conv2d, DepthwiseConv2d, ReLU, BatchNorm2d
    assert not any(isinstance(m, own) for m in other.modules())
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    for mode in (False, True):
        ours, theirs = net.train(mode)(images), other.train(mode)(images)
        torch.testing.assert_close(ours, theirs)
    ours.logsumexp(1).sum().backward()
    theirs.logsumexp(1).sum().backward()
    for mine, its in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-6, atol=1e-9)
