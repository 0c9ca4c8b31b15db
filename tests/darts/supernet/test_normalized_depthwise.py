"""The convolution that reads its map through a normalisation, against the composition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import snsoftmax.depthwise
from darts.supernet import normalized_depthwise as owner
from darts.supernet.branches import Statistics
from darts.supernet.normalized_depthwise import normalized_depthwise
from tests.snsoftmax.test_depthwise import LAYOUTS, close


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_map", LAYOUTS)
def test_any_layout(layout: str, of_map: str) -> None:
    """A convolution hands on maps and gradients as its library likes to lay them."""
    torch.manual_seed(0)
    y = LAYOUTS[of_map](torch.randn(3, 5, 4, 6, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(5, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    grad = LAYOUTS[layout](torch.randn(3, 5, 4, 6, dtype=torch.float64))
    ours = normalized_depthwise(y, [weight], ([], []), True, 0.1, 1e-5)
    normalized = F.batch_norm(y, None, None, training=True)
    theirs = F.conv2d(normalized.relu(), weight, None, 1, 1, 1, 5)
    close(ours, theirs, torch.float64)
    found = torch.autograd.grad(ours, (y, weight), grad)
    for got, want in zip(found, torch.autograd.grad(theirs, (y, weight), grad), strict=True):
        close(got, want, torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_running_statistics(training: bool, tracked: bool) -> None:
    """Moved in training, used in evaluation, as PyTorch's batch normalisation has them."""
    if not (training or tracked):
        return  # nothing to evaluate by
    torch.manual_seed(0)
    y = torch.randn(3, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    statistics = [torch.rand(5, dtype=torch.float64) + 0.5 for _ in range(2)] if tracked else []
    ours = [s.clone() for s in statistics]
    running = (ours[:1], ours[1:])
    z = normalized_depthwise(y, [weight], running, training, 0.1, 1e-5)
    mean, var = statistics if tracked else (None, None)
    normalized = F.batch_norm(y, mean, var, training=training, momentum=0.1, eps=1e-5)
    expected = F.conv2d(normalized.relu(), weight, None, 1, 1, 1, 5)
    close(z, expected, torch.float64)
    for moved, wanted in zip(ours, statistics, strict=True):
        close(moved, wanted, torch.float64)
    grad = torch.randn_like(z)
    found = torch.autograd.grad(z, (y, weight), grad)
    for got, want in zip(found, torch.autograd.grad(expected, (y, weight), grad), strict=True):
        close(got, want, torch.float64)


@pytest.mark.parametrize("kernels", ["own", "library"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [[9], [6, 3], [3, 3, 3]])
def test_weights_and_statistics_of_several_edges(
    lengths: list[int], training: bool, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each weight convolves channels of its own; the statistics are moved where they lie."""
    for module in (owner, snsoftmax.depthwise):
        monkeypatch.setattr(module, "kernels_for", lambda *_: kernels)
    torch.manual_seed(0)
    y = torch.randn(3, 9, 4, 6, dtype=torch.float64, requires_grad=True)
    weights = [
        torch.randn(channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
        for channels, kernel in ((6, 3), (3, 5))
    ]
    statistics = torch.rand(2, 9, dtype=torch.float64) + 0.5
    ours = statistics.clone()
    running = list(ours[0].split(lengths)), list(ours[1].split(lengths))
    z = normalized_depthwise(y, weights, running, training, 0.1, 1e-5)
    mean, var = statistics
    normalized = F.batch_norm(y, mean, var, training=training, momentum=0.1, eps=1e-5).relu()
    parts = zip(normalized.split([6, 3], 1), weights, strict=True)
    expected = torch.cat(
        [F.conv2d(p, w, None, 1, w.shape[-1] // 2, 1, len(w)) for p, w in parts], 1
    )
    close(z, expected, torch.float64)
    close(ours, statistics, torch.float64)
    grad = torch.randn_like(z)
    found = torch.autograd.grad(z, (y, *weights), grad)
    wanted = torch.autograd.grad(expected, (y, *weights), grad)
    for got, want in zip(found, wanted, strict=True):
        close(got, want, torch.float64)


def test_statistics_of_some_edges_are_live() -> None:
    statistics = Statistics(edges=4, channels=3, track=True)
    assert [len(part) for part in statistics.blocks([0, 1, 2, 3])[0]] == [12]
    mean, var = statistics.blocks([1, 3])
    for part in mean + var:
        part.fill_(7.0)
    assert statistics.mean is not None
    assert statistics.var is not None
    assert statistics.mean[:, 0].tolist() == [0.0, 7.0, 0.0, 7.0]
    assert statistics.var[:, 0].tolist() == [1.0, 7.0, 1.0, 7.0]
    assert Statistics(edges=4, channels=3, track=False).blocks([1]) == ([], [])


def test_second_derivatives_of_several_weights() -> None:
    y = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    weights = [
        torch.randn(c, 1, k, k, dtype=torch.float64, requires_grad=True)
        for c, k in ((2, 3), (1, 5))
    ]
    assert torch.autograd.gradgradcheck(
        lambda a, *b: normalized_depthwise(a, b, ([], []), True, 0.1, 1e-5), (y, *weights)
    )


def test_second_derivatives() -> None:
    y = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda a, b: normalized_depthwise(a, [b], ([], []), True, 0.1, 1e-5), (y, weight)
    )


def test_keeps_the_map_and_its_statistics_alone() -> None:
    """The rectified normalisation, as large as the map, is not there for the backward pass."""
    y = torch.randn(4, 8, 6, 6, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        normalized_depthwise(y, [torch.randn(8, 1, 3, 3)], ([], []), True, 0.1, 1e-5)
    assert sum(t.numel() for t in kept) < 1.5 * y.numel()
