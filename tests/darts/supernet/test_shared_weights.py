"""All cells of a type take a node's β from one gather, with the values of one a cell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from darts.spaces import get_space
from darts.supernet import Supernet, build_supernet
from darts.supernet.cell import SearchCell


class Gathers(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.forward += func.name() == "aten::gather"
        self.backward += func.name() == "aten::scatter_add"
        return func(*args, **(kwargs or {}))


def apart(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A cell that shares with no other."""
    return *arguments[:3], {}


def outcome(net: Supernet) -> tuple[list[Tensor], Gathers]:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    weights = {
        name: torch.rand(table.shape).softmax(-1).requires_grad_()
        for name, table in net.space.cells.items()
    }
    with Gathers() as gathers:
        logits = net(images, weights)
        leaves = [*weights.values(), *net.parameters()]
        gradients = torch.autograd.grad(logits.square().sum(), leaves)
    return [logits, *gradients], gathers


@pytest.mark.parametrize(
    ("space", "nodes", "options"),
    [
        ("nb201", 3, {}),
        ("nb201", 3, {"auxiliary_skip": True}),
        ("darts", 8, {}),
        ("darts", 8, {"partial": 2}),
    ],
)
def test_values_are_those_of_one_gather_a_cell(
    space: str, nodes: int, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    cells = 6 if space == "darts" else 2
    net = build_supernet(get_space(space), channels=4, cells=cells, classes=10, **options)
    found, gathers = outcome(net)
    searched = list(net.search_cells().values())
    for cell in searched:
        cell.register_forward_pre_hook(apart)
    expected, more = outcome(net)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    every = sum(len(cell.cell.nodes) for cell in searched if isinstance(cell, SearchCell))
    assert (more.forward, more.backward) == (every, every)
    once = every if options.get("partial") else nodes
    assert (gathers.forward, gathers.backward) == (once, once)
