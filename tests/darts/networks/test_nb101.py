"""NAS-Bench-101's network, against one that is written here as the paper describes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.networks.genotype import Choice, Genotype
from darts.networks.network import build_network
from darts.networks.table import SKELETONS
from tests.darts.networks.test_module_graph import CONV1, CONV3, INCEPTION, POOL, graph


def test_size_is_the_benchmarks() -> None:
    """trainable_parameters of its notebook's example."""
    with torch.device("meta"):
        net = build_network(str(INCEPTION), channels=128, cells=3, classes=10)
    assert sum(p.numel() for p in net.parameters()) == 2_694_282


class Reference:
    """A forward pass by functions alone, which takes its parameters in the order of a network."""

    def __init__(self, net: nn.Module) -> None:
        self.weights: Iterator[Tensor] = iter(net.parameters())

    def block(self, x: Tensor) -> Tensor:
        """Convolution, batch normalisation by the batch, ReLU."""
        kernel, scale, shift = (next(self.weights) for _ in range(3))
        y = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        y = (y - mean) / (var + 1e-5).sqrt()
        return (y * scale[:, None, None] + shift[:, None, None]).clamp(min=0)


def uneven(net: nn.Module, images: Tensor) -> Tensor:
    """Of the cell "01 12 13 24 34 04" at C = 5, where vertex 3 reads two of three channels."""
    by = Reference(net)
    x = by.block(images)
    for stack in range(3):
        if stack:
            n, c, height, width = x.shape
            x = x.view(n, c, height // 2, 2, width // 2, 2).amax((3, 5))
        entering = x
        one, through = by.block(entering), by.block(entering)
        one = by.block(one)
        two = F.max_pool2d(one, 3, 1, 1)
        three = by.block(one[:, : through.shape[1] // 2])
        assert (one.shape[1], three.shape[1]) == ((3, 2), (5, 5), (10, 10))[stack]
        x = torch.cat([two, three], 1) + through
    weight, bias = next(by.weights), next(by.weights)
    logits: Tensor = x.mean((2, 3)) @ weight.T + bias
    assert next(by.weights, None) is None
    return logits


def test_outputs_and_gradients_are_a_references() -> None:
    torch.manual_seed(0)
    found = graph("01 12 13 24 34 04", CONV1, POOL, CONV3)
    net = build_network(str(found), channels=5, cells=1, classes=3).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    ours, theirs = net(images), uneven(net, images)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    parameters = list(net.parameters())
    for mine, its in zip(
        torch.autograd.grad(ours.logsumexp(1).sum(), parameters),
        torch.autograd.grad(theirs.logsumexp(1).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, its, rtol=1e-7, atol=1e-10)


def test_input_that_leads_straight_to_the_output_is_a_projection() -> None:
    net = build_network(str(graph("01")), channels=8, cells=1, classes=3)
    # Stem, three projections that double the channels after the first, classifier.
    convolutions = [27 * 8, 8 * 8, 8 * 16, 16 * 32]
    norms = [2 * width for width in (8, 8, 16, 32)]
    expected = sum(convolutions) + sum(norms) + 32 * 3 + 3
    assert sum(p.numel() for p in net.parameters()) == expected
    assert net(torch.randn(2, 3, 9, 9)).shape == (2, 3)


def test_cell_types_are_what_was_chosen() -> None:
    """Vertices 1 and 2 read all before them; 3 and the output do not."""
    genotype = Genotype.parse(str(graph("01 02 12 13 23 34", CONV1, POOL, CONV3)))
    assert genotype.skeleton == "nb101"
    assert genotype.cell("operations") == (
        Choice(CONV1, 0, 1),
        Choice(POOL, 1, 2),
        Choice(CONV3, 2, 3),
    )
    assert [name for name, _ in genotype.cells] == ["operations", "inputs-3", "output"]
    assert genotype.cell("inputs-3") == (Choice("1", 2, 3), Choice("2", 2, 3))
    assert genotype.cell("output") == (Choice("3", 3, 4),)


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="channels=4 must be at least 5, since so many nodes"):
        build_network(str(INCEPTION), channels=4, cells=1, classes=3)
    check = SKELETONS["nb101"].check
    check({"operations": [(0, 1), (1, 2)], "output": [(2, 3)]})
    six = [(v, v + 1) for v in range(6)]
    for cells in (
        {"operations": six},
        {"operations": [(0, 1)], "inputs-3": [(2, 3)]},
        {"operations": [(0, 2)]},
        {"output": [(0, 1)], "operations": []},
        {"operations": [(0, 1), (1, 2)], "output": [(2, 3)], "inputs-2": [(1, 2)]},
    ):
        with pytest.raises(ValueError, match="must be 'operations' with the edges"):
            check(cells)
