"""GibbsNAS: architecture and weights drawn in turn from their posterior.

Xue, Wang, Yan, Hu, Yang, Sun: Rethinking Bi-Level Optimization in Neural Architecture Search: A
Gibbs Sampling Perspective, AAAI 2021. No code was released, and only the abstract could be read
here. The sentences that decided: one-shot search is posed as a joint probability over data and
model; the bilevel problem becomes "Gibbs sampling from the posterior distribution, which expresses
the preferences for different models given the observed dataset". Assumed from them: both blocks are
conditioned on the same images (no split); the block of α, continuous, is moved by stochastic
gradient Langevin dynamics (Welling, Teh, ICML 2011), α ← α - (η/2)·∇U + N(0, η·T) with U = n·loss +
|α|²/2σ²; the block of ω by the usual SGD; and the architecture is that of the mean of β over the
last half of the search. T, n and σ are therefore this library's, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import SearchConfig, setting
from darts.methods.base import Method, Trainer, Weights, register
from darts.spaces import Space


@register("gibbs", "α and ω sampled in turn from their posterior (Langevin)")
class GibbsNAS(Method):
    """Replaces the update of α and what is selected by."""

    steady = True

    single_level = True
    kept: ClassVar[tuple[str, ...]] = ("collected", "means")

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The posterior of α."""

        images: float = setting(1e3, "n, how many images the likelihood counts", above=0)
        prior: float = setting(1.0, "σ, standard deviation of the prior of α", above=0)
        noise: float = setting(0.1, "T, temperature of the posterior; 0 = its mode", at_least=0)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The prior replaces weight decay; η is the step of the Langevin dynamics."""
        return super().published(space) | {"arch.weight_decay": 0.0, "arch.learning_rate": 2e-4}

    def __init__(self, space: Space, config: SearchConfig) -> None:
        super().__init__(space, config)
        self.collected = 0
        self.means = {cell: torch.zeros_like(a).detach() for cell, a in self.logits.items()}

    @torch.no_grad()
    def arch_update(self, gradients: list[Tensor]) -> None:
        """A step of Langevin dynamics on U."""
        rate = self.config.arch.learning_rate
        for alpha, gradient in zip(self.parameters(), gradients, strict=True):
            slope = self.options.images * gradient + alpha / self.options.prior**2
            noise = torch.empty_like(alpha).normal_(generator=self.generator)
            alpha.sub_(rate / 2 * slope).add_(noise, alpha=(rate * self.options.noise) ** 0.5)

    def end_epoch(self, trainer: Trainer) -> None:
        """Collect β once burnt in."""
        super().end_epoch(trainer)
        if self.epoch >= self.epochs // 2:
            self.collected += 1
            for cell, beta in super().scores().items():
                self.means[cell] += (beta - self.means[cell]) / self.collected

    def scores(self) -> Weights:
        """Posterior mean of β; the current β before any is collected."""
        return dict(self.means) if self.collected else super().scores()
