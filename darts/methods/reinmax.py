"""ReinMax: GDAS's hard samples with a straight-through gradient of second order.

Liu, Dong, Liu, Yu, Gao: Bridging Discrete and Backpropagation: Straight-Through and Beyond, NeurIPS
2023. Of the paper its beginning could be read here, of microsoft/ReinMax the whole
(reinmax/reinmax.py): a one-hot D follows π = softmax(α), and the gradient of α is 2·J(π₁)·g -
½·J(π)·g, where J(p) = diag(p) - p·pᵀ, π₁ = (D + softmax(α/τ))/2, and g is the loss's gradient in D.
It is Heun's rule where straight-through is Euler's: exact in expectation, at τ = 1, for a loss that
is quadratic in D.

g needs every operation of an edge, so that the arch step computes them all; the weight step
computes what was drawn. As a search method it is confopt's (oneshot/archsampler/reinmax), a sampler
in GDAS's place with GDAS's falling τ, which the released function refuses below 1. Assumed here: τ
stays, at 1; everything else is GDAS's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Loss, one_hot, register
from darts.methods.gdas import SinglePath
from darts.spaces import Space


def through_softmax(p: Tensor, logits: Tensor) -> Tensor:
    """J(p)·logits of each row, softmax's Jacobian at p: linear in the logits, p is constant."""
    return p * (logits - (p * logits).sum(-1, keepdim=True))


@register("reinmax", "GDAS's samples with a second-order straight-through gradient")
class ReinMax(SinglePath):
    """Replaces the gradient of the sample."""

    @dataclass(frozen=True)
    class Options(SinglePath.Options):
        """ReinMax's temperature."""

        tau: float = setting(1.0, "temperature of the gradient's softmax", at_least=1)

    options: Options
    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """GDAS's search."""
        return super().published(space) | {"epochs": 250}

    def begin_epoch(self, epoch: int) -> None:
        """The temperature stays."""
        super().begin_epoch(epoch)
        self.set_temperature(self.options.tau)

    def sample(self, cell: str, logits: Tensor) -> Tensor:
        """A hard sample of softmax(α); its numbers are exact, and every entry has a gradient."""
        with torch.no_grad():
            drawn = one_hot(self.relaxed(cell, logits).argmax(-1), logits)
            soft, flat = self.probabilities()[cell], self.normalize(cell, logits)
        second = 2 * through_softmax((drawn + flat) / 2, logits)
        slope = second - through_softmax(soft, logits) / 2
        return drawn + (slope - slope.detach())

    def arch_objective(self, loss: Loss) -> Tensor:
        """The loss of the sample, with the gradient of what was not drawn."""
        return loss(self.weights())
