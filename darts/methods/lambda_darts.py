"""Λ-DARTS: ω learns to make all cells ask for the same operations.

Movahedi, Adabinejad, Imani, Keshavarz, Dehghani, Shakery, Araabi: Λ-DARTS: Mitigating Performance
Collapse by Harmonizing Operation Selection among Cells, arXiv:2210.07998. Read: the
authors' code, dr-faustus/Lambda-DARTS (NAS-Bench201/exps/algos/DARTS-V1.py and its network,
sota/cnn/train_search.py and model_search.py, both run scripts). Cells share β, but each has a
gradient g_l of its own in it; Λ is the mean cosine between the g_l of two cells, and the weight
step goes down the loss minus λ·Λ. The gradient of Λ in ω is a central difference: that of the
losses with β displaced in each cell by ∓ε·∂Λ/∂g_l, where ε = 10⁻⁴/‖∂Λ/∂g‖. λ rises from 0 in equal
steps, to 0.25 on nb201, with 100 epochs and a rate of 10⁻⁴ for α, and to 0.125 elsewhere. In the
DARTS spaces Λ is the normal cells'.

The released code takes the g_l from the weight step's own pass, here they cost one pass more. The
passes of Λ are float32 whatever the supernet's precision is, as bfloat16 would lose the difference.
The variant for signs ("signcorr") is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.devices import parallel
from darts.methods import schedules
from darts.methods.base import Method, Step, register
from darts.spaces import Space
from darts.supernet.step import cross_entropy, displaced, frozen

DISPLACEMENT = 1e-4
"""Norm of the displacement of β over all cells, the released scripts' default."""


def alignment(gradients: Tensor) -> Tensor:
    """Λ: the mean cosine between two different rows of [cells, n]; 0 for one row alone."""
    unit = torch.nn.functional.normalize(gradients, dim=-1)
    together = unit.sum(0).square().sum() - unit.square().sum()
    return together / max(1, len(gradients) * (len(gradients) - 1))


@register("lambda-darts", "DARTS whose weights learn to align the cells' gradients of β")
class LambdaDARTS(Method):
    """Adds to the gradient of ω."""

    needs_cells = True

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The weight of the alignment."""

        strength: float = setting(0.125, "λ in the last epoch", at_least=0)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released scripts."""
        own = {"weights.nesterov": False, "weights.weight_decay": 3e-4}
        if space.stacked:
            own |= {"epochs": 100, "arch.learning_rate": 1e-4, "options.strength": 0.25}
        return super().published(space) | own

    def loss(self, step: Step, cell: str, by: Sequence[Tensor]) -> Tensor:
        """The weight loss with the β of each cell of a type displaced."""
        with displaced(step.net, cell, by):
            return cross_entropy(step.net, step.weight_batch, self.training_weights(step))[0]

    def directions(self, step: Step, cell: str) -> Tensor:
        """∂Λ/∂g of every cell of a type, [cells, edges, operations]."""
        count = sum(c.name == cell for c in step.net.search_cells().values())
        still = [torch.zeros_like(self.logits[cell]).requires_grad_() for _ in range(count)]
        with frozen(step.net):
            loss = self.loss(step, cell, parallel.shared(still))
            gradients = torch.stack(torch.autograd.grad(loss, still))
        ways: Tensor = torch.func.grad(lambda g: alignment(g.flatten(1)))(gradients)
        return ways

    def weight_gradients(self, step: Step) -> None:
        """Add that of -λ·Λ."""
        super().weight_gradients(step)
        strength = schedules.linear(0.0, self.options.strength, self.epoch, self.config.epochs)
        (cell,) = self.space.leading
        ways = self.directions(step, cell)
        epsilon = DISPLACEMENT / ways.norm().clamp(min=torch.finfo(ways.dtype).tiny)
        parameters = list(step.net.parameters())
        for sign in (-1.0, 1.0):
            loss = self.loss(step, cell, list(sign * epsilon * ways))
            gradients = torch.autograd.grad(
                loss, parameters, allow_unused=True, materialize_grads=True
            )
            parallel.average_(gradients)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                assert parameter.grad is not None
                parameter.grad -= sign * strength / (2 * epsilon) * gradient
