"""β-DARTS: a decay of β in place of one of α.

Ye, Li, Li, Chen, Fan, Ouyang: β-DARTS: Beta-Decay Regularization for Differentiable Architecture
Search, CVPR 2022 (Eqs 5-15). Read beside Sunshine-Ye/Beta-DARTS (optimizers/darts/architect.py):
the loss of α gains λ times the mean over edges of log Σ exp(α), λ rising from 0 to 50 over 100
epochs in steps of 50·epoch/100; otherwise DARTS with weight decay 3e-4 and no Nesterov, arch step
first. The code keeps Adam's weight decay of 1e-3 on α, and so does this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Loss, Method, register
from darts.spaces import Space


@register("beta-darts", "DARTS with beta-decay")
class BetaDARTS(Method):
    """Adds a penalty to the arch step."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The penalty's weight."""

        decay: float = setting(50.0, "λ that the penalty would reach after the last epoch", above=0)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released search."""
        own = {"weights.nesterov": False, "weights.weight_decay": 3e-4, "arch.first": True}
        return super().published(space) | own | ({"epochs": 100} if space.stacked else {})

    def arch_objective(self, loss: Loss) -> Tensor:
        """Loss + λ·mean log Σ exp(α)."""
        sizes = torch.cat([alpha.logsumexp(-1) for alpha in self.logits.values()])
        weight = self.options.decay * self.epoch / self.config.epochs
        return super().arch_objective(loss) + weight * sizes.mean()
