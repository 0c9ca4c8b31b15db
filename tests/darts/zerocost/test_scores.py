"""Each score against its formula in float64 NumPy, on networks small enough to write out."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from darts.benchmark.nb201 import ALL_SKIP, RESNET
from darts.errors import UserError
from darts.networks.network import build_network
from darts.networks.normalization import BatchNorm2d
from darts.zerocost import SCORES, jacob_cov, multiply_adds, naswot, parameters, swap, synflow
from darts.zerocost.patterns import activation_patterns

DEAD = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def network(arch: str = RESNET) -> nn.Module:
    torch.manual_seed(0)
    return build_network(arch, channels=4, cells=1, classes=3)


def batch(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_synflow_by_hand() -> None:
    """R = Σ |c| |v| |a| over two 1x1 convolutions and a linear layer on an image of 1 pixel."""
    first, last = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, 1)
    net = nn.Sequential(first, BatchNorm2d(2), nn.ReLU(), nn.Flatten(), last)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]])[:, :, None, None])
        last.weight.copy_(torch.tensor([[-4.0, 2.0]]))
        last.bias.fill_(-7.0)
    # Hidden units 3 and 3.5; R without bias 4 * 3 + 2 * 3.5 = 19, and each layer's flow is that.
    assert synflow(net, torch.zeros(5, 2, 1, 1)) == pytest.approx(38.0, rel=1e-14)
    assert first.weight[0, 1].item() == -2.0, "the network stays as it is"
    assert isinstance(net[1], BatchNorm2d)


def test_synflow_against_finite_differences() -> None:
    """Σ |θ ∂R/∂θ| is the derivative of R by one factor of all of a layer's weights, summed."""
    net = network().double()
    images = batch()
    got = synflow(net, images)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm2d):
                setattr(module, name, nn.Identity())
    for p in net.parameters():
        p.data.abs_()
    ones = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    expected = 0.0
    with torch.no_grad():
        for layer in [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]:
            kept = layer.weight.clone()
            outputs = []
            for factor in (1 + 1e-6, 1 - 1e-6):
                layer.weight.copy_(kept * factor)
                outputs.append(net(ones).sum().item())
            layer.weight.copy_(kept)
            expected += (outputs[0] - outputs[1]) / 2e-6
    assert got == pytest.approx(expected, rel=1e-6)


def test_jacob_cov_against_numpy() -> None:
    net, images = network(), batch()
    x = images.clone().requires_grad_()
    net.train()
    net(x).sum().backward()
    assert x.grad is not None
    correlation = np.corrcoef(x.grad.flatten(1).double().numpy())
    values = np.linalg.eigvalsh(correlation)
    expected = -(np.log(values + 1e-5) + 1 / (values + 1e-5)).sum()
    assert jacob_cov(network(), images) == pytest.approx(expected, rel=1e-5)


def test_jacob_cov_is_worst_where_all_images_move_alike() -> None:
    """A linear network has one gradient: eigenvalues 3, 0, 0."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    images = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    expected = -(math.log(3 + 1e-5) + 1 / (3 + 1e-5) + 2 * (math.log(1e-5) + 1e5))
    assert jacob_cov(net, images) == pytest.approx(expected, rel=1e-6)


def relus() -> tuple[nn.Module, torch.Tensor]:
    """ReLUs that are on for the images 110, 100, 011 and again 011 of three."""
    net = nn.Sequential(nn.ReLU(), nn.Flatten())
    on = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]]).T
    return net, (2 * on - 1)[:, :, None, None]


def test_naswot_by_hand() -> None:
    net, images = relus()
    # Units on which images agree: 0 and 1 on one, 0 and 2 on none, 1 and 2 on three.
    kernel = np.array([[4.0, 1, 0], [1, 4, 3], [0, 3, 4]])
    assert naswot(net, images) == pytest.approx(math.log(np.linalg.det(kernel)), rel=1e-12)


def test_naswot_counts_the_hamming_distance() -> None:
    net, images = network(), batch()
    codes = torch.cat(activation_patterns(net, images), dim=1).numpy()
    kernel = np.full((6, 6), float(codes.shape[1]))
    for a, b in combinations(range(6), 2):
        kernel[a, b] = kernel[b, a] = codes.shape[1] - (codes[a] != codes[b]).sum()
    assert naswot(net, images) == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-10)


def test_swap_by_hand() -> None:
    assert swap(*relus()) == 3
    with pytest.raises(UserError, match="at most 63, not 64"):
        swap(network(), batch(64))


def test_swap_counts_columns() -> None:
    net, images = network(), batch()
    codes = torch.cat(activation_patterns(net, images), dim=1).numpy()
    assert swap(net, images) == len({tuple(column) for column in codes.T})


def test_hooks_are_gone_after_a_failure() -> None:
    net = network()
    with pytest.raises(RuntimeError):
        naswot(net, torch.zeros(2, 5, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_two_equal_images_have_no_naswot() -> None:
    same = batch(1).repeat(3, 1, 1, 1)
    assert naswot(network(), same) == -math.inf


@pytest.mark.parametrize("name", SCORES)
def test_a_cell_without_a_path_is_the_worst(name: str) -> None:
    """All skip connections at least hand the image on."""
    dead, path = SCORES[name](network(DEAD), batch()), SCORES[name](network(ALL_SKIP), batch())
    assert dead <= path
    assert (dead == path) == (name in ("params", "macs"))


def test_size_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 10))
    assert parameters(net, batch()) == 3 * 4 * 9 + 4 + 256 * 10 + 10
    assert multiply_adds(net, batch()) == 3 * 4 * 9 * 64 + 256 * 10
