"""ENAS: a controller learns by REINFORCE which architectures do well with the shared weights.

Pham, Guan, Zoph, Le, Dean: Efficient Neural Architecture Search via Parameter Sharing, ICML 2018.
Read: AutoDL-Projects' search (exps/NATS-algos/search-cell.py, its configuration of 100 epochs) and
the authors' code, melodyguan/enas; see `darts.methods.controller` for what draws. The weight step
trains one drawn architecture. The controller goes down -log p(a)·(R - b), where R is the accuracy
on images of the other half plus 10⁻⁴ times the entropy, and b is a moving average of R (0.99) that
has seen R and starts at the first; a mean over 20 draws, Adam 0.001 with ε = 0.001. At the end the
best of 100 draws is taken, by 512 images.

There an epoch of the controller's, 1,000 draws, follows an epoch of ω's; here every eighth step has
20 draws, all on the step's own images: 980 in an epoch of 25,000 images. b moves with each draw and
the entropy counts as a number, as in the authors' code; AutoDL-Projects keeps b for an epoch, and
sends a gradient through the entropy, whose sign lowers it. What is logged as β is the mean of what
the controller says in 64 draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import SearchConfig, setting
from darts.data.targets import score
from darts.devices import parallel
from darts.methods.base import Step, Weights, register
from darts.methods.controller import Controller, reinforce
from darts.methods.random_search import BestOfDraws
from darts.spaces import Space


@register("enas", "a controller that draws architectures, trained by REINFORCE")
class ENAS(BestOfDraws):
    """Draws by a controller, and moves it."""

    capturable = False
    kept: ClassVar[tuple[str, ...]] = ("place", "baseline")

    @dataclass(frozen=True)
    class Options(BestOfDraws.Options):
        """How the controller learns."""

        interval: int = setting(
            8, "steps from one update of the controller to the next", at_least=1
        )
        draws: int = setting(20, "architectures that an update is the mean of", at_least=1)
        entropy: float = setting(1e-4, "weight of the entropy in the reward", at_least=0)
        decay: float = setting(0.99, "decay of the baseline", at_least=0, at_most=1)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """AutoDL-Projects' search."""
        arch = {"initial_scale": 0.0, "learning_rate": 0.001, "weight_decay": 0.0, "clip": 5.0}
        own = {f"arch.{name}": value for name, value in arch.items()}
        return super().published(space) | {"epochs": 100} | own

    def __init__(self, space: Space, config: SearchConfig) -> None:
        source = torch.Generator().manual_seed(config.seed)
        self.controller = Controller(space, source).to(config.device)
        super().__init__(space, config)
        self.baseline = torch.full((), torch.nan, device=self.device)
        self.place = 0
        self.optimizer.param_groups[0]["eps"] = 0.001

    def parameters(self) -> list[Tensor]:
        """α, which stays at 0, and the controller's own."""
        return [*super().parameters(), *self.controller.parameters()]

    def probabilities(self) -> Weights:
        """The mean of what the controller says in 64 draws, which are always the same."""
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        return self.controller.by_cell(self.controller(64, generator).said.mean(0))

    def draw(self) -> Weights:
        """What the controller draws."""
        with torch.no_grad():
            return self.controller.by_cell(self.controller(1, self.generator).chosen[0])

    def accuracy(self, step: Step, weights: Weights) -> Tensor:
        """Of one architecture on the arch batch, from 0 to 1."""
        logits = step.arch_loss.measure(weights).logits
        return parallel.average(score(logits, step.arch_batch.labels) / len(logits))

    def arch_gradients(self, step: Step) -> list[Tensor]:
        """REINFORCE's."""
        drawn = self.controller(self.options.draws, self.generator)
        tables = map(self.controller.by_cell, drawn.chosen)
        accuracies = torch.stack([self.accuracy(step, table) for table in tables])
        rewards = accuracies + self.options.entropy * drawn.entropy
        loss = reinforce(drawn.log_probability, rewards, self.baseline, self.options.decay)
        return list(
            torch.autograd.grad(loss, self.parameters(), allow_unused=True, materialize_grads=True)
        )

    def arch_step(self, step: Step) -> None:
        """An update where it is time; otherwise one draw is measured for the log."""
        self.place += 1
        if self.place % self.options.interval:
            self.accuracy(step, self.draw())
        else:
            super().arch_step(step)

    def gradient_norms(self, norm_sums: Tensor) -> dict[str, list[float]]:
        """None: the controller's parameters belong to no edge."""
        return {}
