"""Operations of a user's own: the supernet runs what the table says, whatever the name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from darts.networks.operations import OPERATIONS
from darts.spaces import Cell, Space
from darts.spaces.nb201 import EDGES
from darts.supernet import build_supernet
from tests.reference.supernet import ReferenceSupernet


class Gated(nn.Module):
    """A convolution with a normalisation and a gate of its own."""

    def __init__(self, channels: int, track: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False, track_running_stats=track)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.convolution(x))
        return y * torch.sigmoid(x)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    # Names that look like the package's own, and mean something else.
    monkeypatch.setitem(OPERATIONS, "avg_pool_5x5", lambda c, s, a, t: nn.AvgPool2d(5, s, 2))
    monkeypatch.setitem(OPERATIONS, "nor_conv_7x7", lambda c, s, a, track: Gated(c, track))
    operations = ("none", "skip_connect", "nor_conv_3x3", "avg_pool_5x5", "nor_conv_7x7")
    return Space("own", "nb201", {"cell": Cell(1, EDGES, (operations,) * len(EDGES))})


def test_they_are_what_the_conventional_supernet_runs(space: Space) -> None:
    torch.manual_seed(0)
    reference = ReferenceSupernet(space, 4, 1, 10).double()
    net = build_supernet(space, channels=4, cells=1, classes=10).double()
    state = reference.state_dict()
    with torch.no_grad():
        for name, view in net.conventional_views().items():
            view.copy_(state[name])
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    alpha = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for model in (net, reference):
        out = model(x, {"cell": alpha.softmax(-1)}, None)
        loss = (out * torch.arange(10)).sum()
        model.zero_grad()
        (grad,) = torch.autograd.grad(loss, alpha, retain_graph=True)
        loss.backward()
        found.append((out, grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    gradients = dict(reference.named_parameters())

    def gradient(parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        return parameter.grad

    own = 0
    for name, view in net.conventional_views(gradient).items():
        if name in gradients:
            own += name.endswith("convolution.weight")
            torch.testing.assert_close(view, gradient(gradients[name]), rtol=1e-8, atol=1e-9)
    assert own == 3 * len(EDGES)


def test_an_operation_that_nobody_registered_is_refused() -> None:
    with pytest.raises(ValueError, match="'avg_pool_5x5' is not one of"):
        Cell(1, EDGES, (("none", "avg_pool_5x5"),) * len(EDGES))
