"""FairDARTS: operations do not compete; a penalty drives their weights to 0 or 1.

Chu, Zhou, Zhang, Li: Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture
Search, ECCV 2020 (Eqs 4-7). Read beside xiaomi-automl/FairDARTS: sigmoid in place of softmax, α
from 0, -10·mean (σ(α) - 0.5)² added to the loss, batch 128, learning rate 0.005, α's 3e-3 with
Adam(0.9). The paper keeps operations above a threshold of 0.85, so edges may have none or several;
an architecture of these spaces has exactly one an edge, and the strongest is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Loss, Method, register
from darts.spaces import Space


@register("fair-darts", "independent sigmoid weights with a zero-one loss")
class FairDARTS(Method):
    """Replaces softmax, and adds a penalty."""

    steady = True

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The penalty's weight."""

        zero_one: float = setting(10.0, "weight of the zero-one loss", at_least=0)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released search."""
        return super().published(space) | {
            "data.batch_size": 128,
            "weights.learning_rate": 0.005,
            "weights.weight_decay": 3e-4,
            "weights.nesterov": False,
            "arch.learning_rate": 3e-3,
            "arch.beta1": 0.9,
            "arch.first": True,
            "arch.initial_scale": 0.0,
        }

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """Each operation on its own."""
        return logits.sigmoid()

    def arch_objective(self, loss: Loss) -> Tensor:
        """Loss - w·mean (σ(α) - 0.5)²."""
        sigmas = torch.cat([p.flatten() for p in self.probabilities().values()])
        penalty = -(sigmas - 0.5).square().mean()
        return super().arch_objective(loss) + self.options.zero_one * penalty
