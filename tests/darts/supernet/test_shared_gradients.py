"""Gradients that readers of a map add up outside autograd reach the map in every kind of pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import snsoftmax
from darts.supernet.mixture import SharedMap, Summand, mix

W = torch.tensor([0.3, 0.7], dtype=torch.float64)


def readers(x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Two nodes by the mixture and by its formula.

    Each reads its half of the channels of one map, normalised, as edges do, and all of another.
    """
    kernel = torch.linspace(-1, 1, 32, dtype=x.dtype).view(8, 4, 1, 1)
    wide, plain = F.conv2d(x, kernel), x * x
    shared = SharedMap.of(wide), SharedMap.of(plain)
    parts = [[Summand(shared[0], True, 4 * i, 4), Summand(shared[1])] for i in (0, 1)]
    ours = [mix(part, W, True) for part in parts]
    halves = F.conv2d(x, kernel).chunk(2, 1)
    theirs = [W[0] * F.batch_norm(h, None, None, training=True) + W[1] * (x * x) for h in halves]
    return ours, theirs


def both(nodes: list[Tensor]) -> Tensor:
    return nodes[0].pow(2).sum() + nodes[1].pow(3).sum()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)


def test_a_pass_leaves_nothing_to_the_next(x: Tensor) -> None:
    ours, theirs = readers(x)
    expected = torch.autograd.grad(both(theirs), x)[0]
    for _ in range(2):
        found = torch.autograd.grad(both(ours), x, retain_graph=True)[0]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_public_operator_is_what_is_trained(training: bool, x: Tensor) -> None:
    """Two autograd nodes over the same kernels: the same values, statistics and gradients."""
    kernel = torch.linspace(-1, 1, 32, dtype=x.dtype).view(8, 4, 1, 1)
    w = W.clone().requires_grad_()
    results = []
    for public in (True, False):
        wide, plain = F.conv2d(x, kernel), x * x
        shared = SharedMap.of(wide), SharedMap.of(plain)
        nodes, statistics = [], []
        for i in (0, 1):
            mean, var = (torch.full((4,), start, dtype=x.dtype) for start in (0.1, 1.3))
            if public:
                node = snsoftmax.mixture(
                    [wide.narrow(1, 4 * i, 4)],
                    [plain],
                    w,
                    running_mean=[mean],
                    running_var=[var],
                    training=training,
                )
            else:
                parts = Summand(shared[0], True, 4 * i, 4, mean, var), Summand(shared[1])
                node = mix(parts, w, training)
            nodes.append(node)
            statistics += [mean, var]
        results.append([*nodes, *statistics, *torch.autograd.grad(both(nodes), (x, w))])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reader", [0, 1])
def test_a_reader_that_leads_nowhere_is_refused(reader: int, x: Tensor) -> None:
    ours, _ = readers(x)
    with pytest.raises(RuntimeError, match="1 of its 2 readers lead to the loss"):
        torch.autograd.grad(ours[reader].pow(3).sum(), x)


def test_gradients_of_what_needs_no_map_are_none_of_its_business(x: Tensor) -> None:
    w = W.clone().requires_grad_()
    shared = SharedMap.of(x * x)
    nodes = [mix([Summand(shared)], w[i : i + 1], True) for i in range(2)]
    (found,) = torch.autograd.grad(nodes[0].sum(), w)
    torch.testing.assert_close(found, torch.stack([(x * x).sum(), x.new_zeros(())]))


def test_a_pass_that_was_broken_off_leaves_nothing(x: Tensor) -> None:
    ours, theirs = readers(x)
    middle = ours[0] * 1

    def broken(_: Tensor) -> None:
        raise ArithmeticError

    handle = middle.register_hook(broken)
    loss = ours[1].pow(3).sum() + middle.pow(2).sum()
    with pytest.raises(ArithmeticError):
        torch.autograd.grad(loss, x, retain_graph=True)
    handle.remove()
    expected = theirs[1].pow(3).sum() + theirs[0].pow(2).sum()
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(expected, x)[0])
