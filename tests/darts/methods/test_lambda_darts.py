"""Λ-DARTS: the cells' gradients of β are aligned."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darts.data import Batch
from darts.methods import Step
from darts.methods.lambda_darts import alignment
from darts.supernet import Supernet, build_supernet
from darts.training.held_out import BatchLoss
from tests.darts.methods.method_helpers import make
from tests.reference.supernet import ReferenceCell, ReferenceSupernet


def step_of(net: Supernet) -> Step:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    pair = Batch(images, torch.arange(6))
    loss = BatchLoss(net, pair, None)
    return Step(net, pair, pair, loss, loss, torch.optim.SGD(net.parameters()))


def in_float64(**settings: Any) -> Any:
    """The method with α ~ N(0, 1)."""
    method = make("lambda-darts", arch={"initial_scale": 1.0}, **settings)
    method.logits = {
        cell: alpha.detach().double().requires_grad_() for cell, alpha in method.logits.items()
    }
    method.temperature = method.temperature.double()
    return method


def cosines(rows: list[Tensor]) -> Tensor:
    pairs = [F.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(rows, 2)]
    return torch.stack(pairs).mean()


def test_alignment_is_the_mean_cosine_of_two_cells() -> None:
    rows = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(alignment(rows), cosines(list(rows)))
    torch.testing.assert_close(alignment(rows[:1].expand(3, 7)), torch.ones(()).double())
    assert alignment(rows[:1]).abs() < 1e-12


@pytest.mark.parametrize(("space", "kind", "cells"), [("nb201", "cell", 1), ("s1", "normal", 5)])
def test_the_gradient_is_that_of_the_alignment(space: str, kind: str, cells: int) -> None:
    """Beside double backward through the conventional supernet in float64."""
    method = in_float64(space=space, epochs=11)
    method.begin_epoch(8)
    strength = 0.8 * method.options.strength
    torch.manual_seed(0)
    reference = ReferenceSupernet(method.space, 4, cells, 10).double()
    net = build_supernet(method.space, channels=4, cells=cells, classes=10).double()
    state = reference.state_dict()
    with torch.no_grad():
        for name, view in net.conventional_views().items():
            view.copy_(state[name])
    step = step_of(net)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.weight_gradients(step)

    beta = {cell: b.detach() for cell, b in method.probabilities().items()}
    own: list[Tensor] = []

    def separate(module: Any, arguments: Any) -> Any:
        maps, weights = arguments
        own.append(weights[kind].clone().requires_grad_())
        return maps, {**weights, kind: own[-1]}

    for module in reference.modules():
        if isinstance(module, ReferenceCell) and module.name == kind:
            module.register_forward_pre_hook(separate)
    loss = F.cross_entropy(reference(step.weight_batch.images, beta), step.weight_batch.labels)
    gradients = torch.autograd.grad(loss, own, create_graph=True)
    assert len(own) >= 2
    aligned = -strength * cosines([g.flatten() for g in gradients])
    names = [name for name, _ in reference.named_parameters()]
    expected = torch.autograd.grad(
        aligned, list(reference.parameters()), allow_unused=True, materialize_grads=True
    )
    wanted = dict(zip(names, expected, strict=True))

    def gradient(parameter: Tensor) -> Tensor:
        assert parameter.grad is not None
        return parameter.grad

    seen = 0
    for name, view in net.conventional_views(gradient).items():
        if name in wanted:
            seen += 1
            torch.testing.assert_close(view, wanted[name], rtol=1e-4, atol=1e-6)
    assert seen == len(names)
    assert max(float(g.abs().max()) for g in expected) > 1e-3


def test_its_weight_rises_from_nothing_in_equal_steps() -> None:
    method = in_float64(epochs=5)
    net = build_supernet("nb201", channels=4, cells=1, classes=10).double()
    step = step_of(net)
    sizes = []
    for epoch in range(5):
        method.begin_epoch(epoch)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.weight_gradients(step)
        sizes.append(torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]))
    assert sizes[0].norm() == 0
    for epoch, size in enumerate(sizes):
        torch.testing.assert_close(size, sizes[-1] * epoch / 4, rtol=1e-4, atol=1e-9)
