"""Shapley-NAS: α moves by each operation's Shapley value in the supernet's accuracy.

Xiao, Wang, Zhu, Zhou, Lu: Shapley-NAS: Discovering Operation Contribution for Neural Architecture
Search, CVPR 2022. Read: the authors' code, Euphoria16/Shapley-NAS (train_search.py,
model_search.py). α has no gradient. From half of the epochs on, before each epoch, all operations
are left out one after another in a random order, and each is credited with the accuracy that is
lost; an order ends when accuracy falls below half of the first. Over 10 orders the mean minus the
standard deviation counts, normalised over each cell's α, in a moving average (0.8), a tenth of
which is added to α. In the DARTS spaces K = 4, batch 256 and ω's rate 0.1 → 0, as in PC-DARTS, but
edges have no weights of their own; there is no code for other spaces, where the recipe stays.

There each order has 1,024 images of its own, drawn from the half that ω does not see; here all have
the same 1,024, unaugmented, and batch statistics always. The average starts at 0, not at noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Method, Trainer, Weights, register
from darts.spaces import Space


@register("shapley-nas", "α moves by each operation's Shapley value in the supernet's accuracy")
class ShapleyNAS(Method):
    """Replaces the arch step by what is measured between epochs."""

    steady = True
    kept: ClassVar[tuple[str, ...]] = ("average",)

    @dataclass(frozen=True)
    class Options(Method.Options):
        """How operations are credited, and what follows."""

        orders: int = setting(10, "orders in which all operations are left out", at_least=1)
        images: int = setting(1024, "images that accuracy is measured on", at_least=1)
        threshold: float = setting(0.5, "share of the accuracy below which an order ends")
        momentum: float = setting(0.8, "decay of the moving average", at_least=0, at_most=1)
        step_size: float = setting(0.1, "share of the average that α moves by", at_least=0)
        partial: int = setting(1, "K: one in K channels goes through the operations", at_least=1)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released search."""
        if not space.leaves_edges_out:
            return super().published(space)
        weights = {"learning_rate": 0.1, "final_learning_rate": 0.0, "weight_decay": 3e-4}
        own = {f"weights.{name}": value for name, value in weights.items()}
        return super().published(space) | own | {"data.batch_size": 256, "options.partial": 4}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.average = {cell: torch.zeros_like(a).detach() for cell, a in self.logits.items()}

    def supernet_options(self) -> dict[str, Any]:
        """Partial channels."""
        return super().supernet_options() | {"partial": self.options.partial}

    @property
    def alpha_moves(self) -> bool:
        """Not by steps."""
        return False

    def by_cell(self, flat: Tensor) -> Weights:
        """All entries of β, [n], as one table a cell."""
        parts = flat.split([a.numel() for a in self.logits.values()])
        return {c: part.view_as(a) for (c, a), part in zip(self.logits.items(), parts, strict=True)}

    def lost(self, trainer: Trainer) -> Tensor:
        """Accuracy in percent that goes with each entry of β; 0 after the order's end, [n]."""
        left = torch.cat([beta.flatten() for beta in self.scores().values()])
        found, images = torch.zeros_like(left), self.options.images
        first = before = trainer.evaluate(self.by_cell(left), images=images)[1]
        for entry in torch.randperm(len(left), generator=self.generator, device=self.device):
            left[entry] = 0.0
            after = trainer.evaluate(self.by_cell(left), images=images)[1]
            found[entry], before = before - after, after
            if after < self.options.threshold * first:
                break
        return found

    def end_epoch(self, trainer: Trainer) -> None:
        """Move α, from before the second half until before the last epoch."""
        super().end_epoch(trainer)
        if not self.config.epochs // 2 <= self.epoch + 1 < self.config.epochs:
            return
        lost = torch.stack([self.lost(trainer) for _ in range(self.options.orders)])
        credits = lost.mean(0) - lost.std(0, correction=0)
        for cell, own in self.by_cell(credits).items():
            normal = (own - own.mean()) / own.std().clamp(min=1e-12)
            self.average[cell].lerp_(normal, 1 - self.options.momentum)
            self.logits[cell].data.add_(self.average[cell], alpha=self.options.step_size)
