"""OLES: an operation stops learning when the two halves no longer pull its weights the same way.

Jiang, Ji, Zhu, Yuan, Huang: Operation-Level Early Stopping for Robustifying Differentiable NAS,
NeurIPS 2023. Read: of the paper the abstract and its formula (the mean over M batches of the cosine
of the two gradients), the authors' code, PasaLab/oles (train_search.py, architect.py), and
automl/ConfigurableOptimizer's, which is the same. The arch step also gives the gradient of ω; an
operation of one cell and edge is stopped for good when the sum of M + 1 = 21 cosines, divided by
M = 20, is below 0.4. The cosine is taken over the output channels, averaged over the other
dimensions, then over the operation's weights. Skip connections of stride 2 are not watched.

Both codes leave the clipped gradient of the last weight step in place, so that the gradient of the
arch step is added to it: the cosine is that of their sum with the former, about 0.7 where the two
have nothing in common and are equally long. The threshold is meant for that, so it is kept here. A
stopped operation does not move at all; in the codes momentum and weight decay may go on, as the
release of PyTorch has it. Its gradient does not count in the clip. There is no code for nb201,
where the recipe stays as it is but for the order of the two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import setting
from darts.devices import parallel
from darts.methods.base import Method, Step, register
from darts.spaces import Space
from darts.supernet import Supernet
from darts.supernet.learnt import LearntOperations


@register("oles", "DARTS whose operations stop learning where the halves' gradients part")
class OLES(Method):
    """Watches ω's gradients in the arch step, and moves a part of ω only."""

    steady = True
    kept: ClassVar[tuple[str, ...]] = ("watched", "trained")

    @dataclass(frozen=True)
    class Options(Method.Options):
        """When an operation is stopped."""

        interval: int = setting(20, "M, steps between two decisions", at_least=1)
        threshold: float = setting(0.4, "cosine below which an operation stops learning")

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released order of the two steps."""
        return super().published(space) | {"arch.first": True}

    watched: Sequence[Tensor] = ()
    """Comparisons since the last decision, each operation's sum, whether it still learns."""
    trained: Sequence[Tensor] = ()
    """The gradient of each operation's weights in the last weight step, clipped."""

    def prepare(self, net: Supernet) -> None:
        """Find the operations."""
        super().prepare(net)
        self.operations = LearntOperations(net)
        if not self.watched:
            sums = torch.zeros(self.operations.count, device=self.device)
            # An arch step that comes first has nothing to compare with in the first step.
            self.watched = [
                sums.new_tensor(-float(self.config.arch.first)),
                sums,
                torch.ones_like(sums, dtype=torch.bool),
            ]
            self.trained = [torch.zeros_like(p) for p in self.operations.parameters]

    def watch(self, gradients: Sequence[Tensor]) -> None:
        """Compare with the last weight step's gradients; decide where it is time."""
        count, sums, learns = self.watched
        both = [own + last for own, last in zip(gradients, self.trained, strict=True)]
        sums += self.operations.agreement(both, self.trained)
        due = count == self.options.interval
        learns &= ~due | (sums >= self.options.threshold * self.options.interval)
        sums *= ~due
        count.copy_(torch.where(due, 0, count + 1))

    def arch_gradients(self, step: Step) -> list[Tensor]:
        """Those of α; the same backward pass gives ω's."""
        alphas = self.parameters()
        moved = [*alphas, *self.operations.parameters]
        objective = self.arch_objective(step.arch_loss)
        found = torch.autograd.grad(objective, moved, allow_unused=True, materialize_grads=True)
        parallel.average_(found[len(alphas) :])
        self.watch(found[len(alphas) :])
        return list(found[: len(alphas)])

    def weight_gradients(self, step: Step) -> None:
        """None for what has stopped."""
        super().weight_gradients(step)
        self.operations.scale_gradients(self.watched[2])

    def weight_update(self, step: Step) -> None:
        """What has stopped stays where it is."""
        self.operations.copy_gradients(self.trained)
        with self.operations.only(self.watched[2]):
            super().weight_update(step)
