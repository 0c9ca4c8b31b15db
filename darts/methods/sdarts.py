"""SDARTS: ω learns under perturbed β, so that the loss is flat around it.

Chen, Hsieh: Stabilizing Differentiable Architecture Search via Perturbation-based Regularization,
ICML 2020 (Eqs 4-7, Algorithm 1). Read beside xiangning-chen/SmoothDARTS (attacker/perturb.py,
sota/cnn/train_search.py): the radius ε grows from 0.03 to 0.3; RS adds uniform noise, ADV climbs
the weight step's loss by 7 sign steps of 2ε/7 from such a start, with running batch-norm
statistics, and keeps what it found only if the loss has risen; rows are clamped to [0, 1] and
normalised. The arch step is DARTS's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Loss, Method, Step, Weights, one_hot, register
from darts.spaces import Space
from darts.supernet.step import frozen


def project(row: Tensor) -> Tensor:
    """Clamp to [0, 1] and normalise rows; a row without mass gets its largest entry back."""
    clamped = row.clamp(0, 1)
    total = clamped.sum(-1, keepdim=True)
    return torch.where(total > 0, clamped / total, one_hot(row.argmax(-1), row))


class Perturbed(Method):
    """Random perturbation of the weight step's β; combines with other methods."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The ball's radius."""

        epsilon: float = setting(0.3, "largest radius of the perturbation, reached last", above=0)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released search."""
        own = {"weights.nesterov": False, "weights.weight_decay": 3e-4, "arch.first": True}
        return super().published(space) | own

    def radius(self) -> float:
        """ε of the current epoch."""
        share = min(self.epoch / self.config.epochs, 1.0)
        return 0.03 + (self.options.epsilon - 0.03) * share

    def noisy(self, weights: Weights) -> Weights:
        """β plus uniform noise in [-ε, ε]."""
        epsilon = self.radius()

        def noise(like: Tensor) -> Tensor:
            return torch.empty_like(like).uniform_(-epsilon, epsilon, generator=self.generator)

        return {cell: project(beta + noise(beta)) for cell, beta in weights.items()}

    def training_weights(self, step: Step) -> Weights:
        """A random point of the ball around β."""
        return self.noisy(super().training_weights(step))


@register("sdarts-rs", "DARTS whose weights learn under random perturbation of β")
class SDARTSRS(Perturbed):
    """Random smoothing."""


@register("sdarts-adv", "DARTS whose weights learn under adversarial perturbation of β")
class SDARTSADV(Perturbed):
    """Adversarial training.

    Every operation is computed in the weight step, also where the attack has made its β 0: the
    next attack normalises by running statistics, which stand still in what is left out.
    """

    @dataclass(frozen=True)
    class Options(Perturbed.Options):
        """The attack's length."""

        steps: int = setting(7, "sign steps of the attack", at_least=1)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released search."""
        return super().published(space) | {"supernet.zero_skip": False}

    def training_weights(self, step: Step) -> Weights:
        """The worst point found in the ball around β."""
        with torch.no_grad():
            clean = self.weights()
        step.net.eval()
        with frozen(step.net):
            attacked = self.attack(clean, step.weight_loss)
        step.net.train()
        return attacked

    def attack(self, clean: Weights, loss: Loss) -> Weights:
        """Projected gradient ascent of `loss` within ε of `clean`."""
        epsilon, count = self.radius(), self.options.steps
        found = self.noisy(clean)
        for _ in range(count):
            found = {cell: beta.requires_grad_() for cell, beta in found.items()}
            gradients = torch.autograd.grad(loss(found), list(found.values()))
            with torch.no_grad():
                found = {
                    cell: project(
                        center
                        + (beta + 2 * epsilon / count * g.sign() - center).clamp(-epsilon, epsilon)
                    )
                    for (cell, beta), center, g in zip(
                        found.items(), clean.values(), gradients, strict=True
                    )
                }
        with torch.no_grad():
            better = loss(found) > loss(clean)
            return {cell: torch.where(better, beta, clean[cell]) for cell, beta in found.items()}
