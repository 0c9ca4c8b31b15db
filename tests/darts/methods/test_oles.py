"""OLES: operations stop learning one by one."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.data import Batch
from darts.methods import Step
from darts.supernet import Supernet, build_supernet
from darts.supernet.step import weight_step
from darts.training.held_out import BatchLoss
from tests.darts.methods.method_helpers import make
from tests.reference.supernet import ReferenceCell, ReferenceSupernet

CLIP = 5.0


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(4))


def sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-2)


def in_float64(space: str, first: bool, **options: Any) -> Any:
    method = make("oles", space=space, arch={"initial_scale": 1.0, "first": first}, options=options)
    method.logits = {c: a.detach().double().requires_grad_() for c, a in method.logits.items()}
    method.temperature = method.temperature.double()
    method.device = torch.device("cpu")
    return method


def operations(net: nn.Module) -> list[list[nn.Parameter]]:
    """The weights of every watched operation of a conventional supernet."""
    return [
        list(module.parameters())
        for cell in net.modules()
        if isinstance(cell, ReferenceCell)
        for edge, names in zip(cell.edges, cell.cell.candidates, strict=True)
        for module, name in zip(edge, names, strict=True)  # type: ignore[call-overload]
        if name != "skip_connect" and list(module.parameters())
    ]


class PlainLoop:
    """One module an operation, as the released script does it, but for what a stop stops."""

    def __init__(self, net: ReferenceSupernet, interval: int, threshold: float) -> None:
        self.net, self.interval, self.threshold = net, interval, threshold
        self.watched = operations(net)
        self.optimizer = sgd(net.parameters())
        self.sums, self.counts = [0.0] * len(self.watched), [0] * len(self.watched)
        self.before: list[list[Tensor]] = []

    def arch_step(self, pair: Batch, beta: dict[str, Tensor]) -> None:
        F.cross_entropy(self.net(pair.images, beta), pair.labels).backward()  # adds up
        for place, own in enumerate(self.watched):
            if not self.before or not own[0].requires_grad:
                continue
            cosines = [
                float(F.cosine_similarity(p.grad, old, dim=0).mean())
                for p, old in zip(own, self.before[place], strict=True)
                if p.grad is not None
            ]
            self.sums[place] += sum(cosines) / len(own)
            if self.counts[place] < self.interval:
                self.counts[place] += 1
                continue
            if self.sums[place] / self.interval < self.threshold:
                for p in own:
                    p.requires_grad_(False)
                    p.grad = None
            self.sums[place], self.counts[place] = 0.0, 0

    def weight_step(self, pair: Batch, beta: dict[str, Tensor]) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(pair.images, beta), pair.labels).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        self.before = [
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in own]
            for own in self.watched
        ]

    @property
    def learning(self) -> int:
        return sum(own[0].requires_grad for own in self.watched)


@pytest.mark.parametrize(
    ("space", "cells", "threshold", "first"), [("nb201", 1, 0.9, False), ("s1", 3, 0.6, True)]
)
def test_it_is_the_plain_loop(space: str, cells: int, threshold: float, first: bool) -> None:
    method = in_float64(space, first, interval=1, threshold=threshold)
    torch.manual_seed(0)
    plain = PlainLoop(ReferenceSupernet(method.space, 4, cells, 10).double(), 1, threshold)
    net = build_supernet(method.space, channels=4, cells=cells, classes=10).double()
    state = plain.net.state_dict()
    with torch.no_grad():
        for name, view in net.conventional_views().items():
            view.copy_(state[name])
    optimizer = sgd(net.parameters())
    beta = {cell: b.detach() for cell, b in method.probabilities().items()}
    method.prepare(net)
    method.watched[:2] = [part.double() for part in method.watched[:2]]
    learning = [plain.learning]
    for number in range(4):
        pairs = batch(2 * number), batch(2 * number + 1)
        weight_loss, arch_loss = (BatchLoss(net, pair, None) for pair in pairs)
        step = Step(net, *pairs, weight_loss, arch_loss, optimizer)

        def move(step: Step = step) -> None:
            weight_step(net, step.weight_batch, method.training_weights(step))
            method.weight_gradients(step)
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            method.weight_update(step)

        if first:
            method.arch_gradients(step)
            move()
            plain.arch_step(pairs[1], beta)
            plain.weight_step(pairs[0], beta)
        else:
            move()
            method.arch_gradients(step)
            plain.weight_step(pairs[0], beta)
            plain.arch_step(pairs[1], beta)
        learning.append(plain.learning)
        assert int(method.watched[2].sum()) == plain.learning
        wanted = plain.net.state_dict()
        for name, view in net.conventional_views().items():
            torch.testing.assert_close(view, wanted[name], rtol=1e-7, atol=1e-10, msg=name)
    assert learning[0] > learning[-1] > 0


def test_the_gradient_of_alpha_is_that_of_darts() -> None:
    method = in_float64("nb201", True)
    net = build_supernet("nb201", channels=4, cells=1, classes=10).double()
    method.prepare(net)
    pair = batch(0)
    loss = BatchLoss(net, pair, None)
    step = Step(net, pair, pair, loss, loss, sgd(net.parameters()))
    found = method.arch_gradients(step)
    (expected,) = super(type(method), method).arch_gradients(step)
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-14)
    assert len(found) == 1


def test_a_stopped_operation_stays_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    method = in_float64("nb201", False)
    net: Supernet = build_supernet("nb201", channels=4, cells=1, classes=10).double()
    method.prepare(net)
    method.watched[2][::2] = False
    pair = batch(0)
    loss = BatchLoss(net, pair, None)
    step = Step(net, pair, pair, loss, loss, sgd(net.parameters()))
    before = {name: view.clone() for name, view in net.conventional_views().items()}
    for _ in range(2):
        weight_step(net, pair, method.training_weights(step))
        method.weight_gradients(step)
        method.weight_update(step)
    weights = [n for n in before if ".edges." in n and n.endswith("weight")]
    after = net.conventional_views()
    still = [name for name in weights if torch.equal(before[name], after[name])]
    assert len(weights) == len(method.watched[2]) == 2 * len(still)
    assert not torch.equal(before["skeleton.stem.0.weight"], after["skeleton.stem.0.weight"])
