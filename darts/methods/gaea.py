"""GAEA: β itself is learnt, on the simplex, by exponentiated gradient.

Li, Khodak, Balcan, Talwalkar: Geometry-Aware Gradient Algorithms for Neural Architecture Search,
ICLR 2021 (Eq. 6). Read beside liamcli/gaea_release (cnn/architect/architect_edarts.py): β starts
uniform, learning rate 0.1, entries kept above 1e-5, no penalty, the arch step first; 25 epochs of
ω's schedule for 50, and weight decay 3e-4 without Nesterov on nb201. The released configuration has
24 first channels where NAS-Bench-201 has 16, which is kept here.

GAEA-ERM learns ω and β from all training images without a split, each from batches of its own, as
the code does; GAEA-Bilevel from the two halves. Without `none`: `--space nb201-without-none`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from darts.methods.base import Method, Weights, register
from darts.spaces import Space

SMALLEST = 1e-5
"""Floor of an entry of β, so that it can recover."""


class ExponentiatedGradient(Method):
    """Replaces α by β on the simplex, and its update; combines with other methods."""

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released code's rule for β."""
        return super().published(space) | {
            "arch.learning_rate": 0.1,
            "arch.weight_decay": 0.0,
            "arch.first": True,
        }

    def initial_logits(self) -> Weights:
        """Uniform β."""
        return {
            cell: torch.full_like(a, 1 / a.shape[-1]).requires_grad_()
            for cell, a in super().initial_logits().items()
        }

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """What is learnt is β."""
        return logits

    def arch_update(self, gradients: list[Tensor]) -> None:
        """β ← β·exp(-η·g), then normalised (Eq. 6); other parameters by the usual rule."""
        betas = len(self.logits)
        still = [torch.zeros_like(gradient) for gradient in gradients[:betas]]
        super().arch_update(still + gradients[betas:])
        rate = self.config.arch.learning_rate
        with torch.no_grad():
            for beta, gradient in zip(self.logits.values(), gradients[:betas], strict=True):
                moved = (beta * (-rate * gradient).exp()).clamp_(min=SMALLEST)
                beta.copy_(moved / moved.sum(-1, keepdim=True))


@register("gaea-bilevel", "exponentiated gradient on β, ω and β from separate halves")
class GAEABilevel(ExponentiatedGradient):
    """GAEA on DARTS's mixture."""

    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released configuration."""
        length = {"epochs": 25} if space.stacked else {}
        weights = {"weights.weight_decay": 3e-4, "weights.nesterov": False}
        return super().published(space) | weights | length

    def learning_rate(self, epoch: float) -> float:
        """On nb201 half of a cosine: the released command stops a schedule of 50 epochs at 25."""
        return super().learning_rate(epoch / 2 if self.space.stacked else epoch)


@register("gaea-erm", "exponentiated gradient on β, one level: all images for both")
class GAEAERM(GAEABilevel):
    """GAEA without a split."""

    steady = True

    single_level = True
