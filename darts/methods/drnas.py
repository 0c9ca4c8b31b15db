"""DrNAS: β drawn from a Dirichlet distribution with learnt concentrations.

Chen, Wang, Cheng, Tang, Hsieh: DrNAS: Dirichlet Neural Architecture Search, ICLR 2021 (Eqs 3-6).
Read beside xiangning-chen/DrNAS (201-space/train_search.py): concentration elu(α) + 1, 100 epochs
and weight decay 3e-4 without Nesterov on nb201, the arch step first, an L2 penalty of 1e-3 on α in
place of the text's KL divergence from Dirichlet(1); `--kl 1e-3 --set arch.weight_decay=0` is the
text's. The released code draws through torch.distributions' Dirichlet; here β is a ratio of gamma
variables with their implicit gradient, which is unbiased for the same expectation, and follows the
seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from darts.config import setting
from darts.methods.base import Loss, Method, Weights, register
from darts.spaces import Space


@register("drnas", "Dirichlet-distributed β")
class DrNAS(Method):
    """Replaces softmax by a Dirichlet distribution."""

    steady = True

    @dataclass(frozen=True)
    class Options(Method.Options):
        """DrNAS's penalty."""

        kl: float = setting(0.0, "weight of the KL divergence from Dirichlet(1)", at_least=0)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """Settings of the released search on each space."""
        own = {
            "weights.nesterov": False,
            "weights.weight_decay": 3e-4,
            "arch.first": True,
        }
        if space.stacked:
            return super().published(space) | own | {"epochs": 100}
        long = {"weights.learning_rate": 0.1, "weights.final_learning_rate": 0.0}
        return (
            super().published(space) | own | long | {"arch.learning_rate": 6e-4, "arch.warmup": 10}
        )

    def concentration(self, logits: Tensor) -> Tensor:
        """elu(α) + 1, positive."""
        return F.elu(logits) + 1

    def open(self, cell: str, mass: Tensor) -> Tensor:
        """What is left of unnormalised β where operations have been pruned; all of it here."""
        return mass

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """The distribution's mean, by which operations are selected."""
        concentration = self.open(cell, self.concentration(logits))
        return concentration / concentration.sum(-1, keepdim=True)

    def weights(self) -> Weights:
        """A fresh sample of every edge, differentiable in α."""
        return {cell: self.sample(cell, self.concentration(a)) for cell, a in self.logits.items()}

    def sample(self, cell: str, concentration: Tensor) -> Tensor:
        """Dirichlet(concentration) of every row, as gamma variables over their sum."""
        gamma = torch._standard_gamma(concentration, generator=self.generator)
        gamma = self.open(cell, gamma.clamp(min=torch.finfo(gamma.dtype).tiny))
        return gamma / gamma.sum(-1, keepdim=True)

    def arch_objective(self, loss: Loss) -> Tensor:
        """The loss, with the divergence from the uniform Dirichlet where asked for."""
        objective = super().arch_objective(loss)
        if self.options.kl:
            # Validation would read the values on the host, which no recorded step can.
            for logits in self.logits.values():
                q = Dirichlet(self.concentration(logits), validate_args=False)
                p = Dirichlet(torch.ones_like(logits), validate_args=False)
                objective = objective + self.options.kl * kl_divergence(q, p).sum()
        return objective
