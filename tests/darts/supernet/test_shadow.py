"""All weights cast at once give what autocast gives, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from darts.spaces import DARTS, NB201, Space
from darts.supernet import build_supernet, step
from darts.supernet.shadow import shadows
from tests.darts.chain_helpers import TINY


class Casts(TorchDispatchMode):
    """Counts casts of what has as many dimensions as a convolution's weight, parameter by shape."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        super().__init__()
        self.shapes, self.single, self.together = shapes, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == "aten::_to_copy" and (kwargs or {}).get("dtype") is not None:
            self.single += args[0].shape in self.shapes
        self.together += func.name() == "aten::_foreach_copy_"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("space", [NB201, DARTS, TINY], ids=lambda space: space.name)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_has_the_same_bits(
    space: Space, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: one convolution of PyTorch for all edges of an operation.
    for user in ("branches", "depthwise"):
        monkeypatch.setattr(f"darts.supernet.{user}.batched", lambda x: True)
    monkeypatch.setattr("darts.supernet.depthwise.kernels_for", lambda *_: "library")
    for user in ("supernet.branches", "supernet.pointwise", "networks.operations"):
        monkeypatch.setattr(f"darts.{user}.convolves", lambda x, weight: False)
    torch.manual_seed(0)
    net = build_supernet(space, channels=4, cells=3 if space is DARTS else 1, classes=10)
    batch = torch.randn(4, 3, 16, 16), torch.arange(4)
    weights = {
        name: torch.rand(table.shape).softmax(-1).requires_grad_()
        for name, table in space.cells.items()
    }
    names = list(shadows(net, torch.bfloat16))
    parameters = dict(net.named_parameters())
    shapes = {parameters[name].shape for name in names}

    def outcome(at_once: bool) -> tuple[list[Tensor], Casts]:
        monkeypatch.setattr(step, "batched", lambda x: at_once)
        leaves = [*weights.values(), *([] if frozen else net.parameters())]
        for parameter in net.parameters():
            parameter.requires_grad_(not frozen)
        with Casts(shapes) as casts:
            loss, logits = step.cross_entropy(net, batch, weights, None, torch.bfloat16)
            gradients = torch.autograd.grad(loss, leaves)
        return [loss, logits, *gradients], casts

    expected, one_by_one = outcome(False)
    results, together = outcome(True)
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert one_by_one.together == 0
    assert together.together == (1 if frozen else 2)
    assert together.single == 0
    # A factorised reduction's weight is cast in another shape.
    assert one_by_one.single > 0.9 * len(names) * (1 if frozen else 2)


def test_only_what_a_convolution_alone_reads() -> None:
    net = build_supernet("darts", channels=4, cells=3, classes=10)
    names = list(shadows(net, torch.bfloat16))
    assert any(name.endswith("pointwise1") for name in names)
    assert not [name for name in names if "depthwise" in name or "norm" in name]
    own = nn.Sequential(nn.Conv2d(2, 2, 1), weight_norm(nn.Conv2d(2, 2, 1)), nn.LayerNorm([2, 2]))
    assert list(shadows(own, torch.bfloat16)) == ["0.weight"]
