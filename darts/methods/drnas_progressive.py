"""DrNAS in stages: half-way fewer operations, and more of the channels go through them.

Chen, Wang, Cheng, Tang, Hsieh, ICLR 2021 (section 3.4). Read beside xiangning-chen/DrNAS
(201-space/train_search_progressive.py, DARTS-space/train_search.py, net2wider.py): one in K
channels goes through the operations, K = 4 then 2 on nb201, 6 then 4 on the DARTS spaces; at half
of the epochs each edge keeps the operations with the largest α (3 of 5, and 4), the others' α
become 0 and never return, and additional channels copy random old ones, momentum included. α rests
for the first 10 epochs of either stage.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.methods.base import register
from darts.methods.drnas import DrNAS
from darts.spaces import Space


@register("drnas-progressive", "DrNAS with pruning and partial channels in two stages")
class ProgressiveDrNAS(DrNAS):
    """Adds the stages."""

    needs_cells = True

    steady = True

    kept: ClassVar[tuple[str, ...]] = ("stage", "masks")

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released progressive searches."""
        own: dict[str, Any] = {"arch.warmup": 10}
        if not space.stacked:
            own |= {"supernet.channels": 36, "supernet.cells": 20}
        return super().published(space) | own

    def __init__(self, *arguments: Any) -> None:
        self.stage = 0
        super().__init__(*arguments)
        self.masks = {cell: torch.ones_like(a).detach() for cell, a in self.logits.items()}

    def supernet_options(self) -> dict[str, Any]:
        """The stage's partial channels."""
        sequence = (4, 2) if self.space.stacked else (6, 4)
        return super().supernet_options() | {"partial": sequence[self.stage]}

    def begin_epoch(self, epoch: int) -> None:
        """Prune at half of the epochs."""
        super().begin_epoch(epoch)
        if self.stage == 0 and epoch >= self.config.epochs // 2:
            self.stage = 1
            for cell, alpha in self.logits.items():
                keep = min(3 if self.space.stacked else 4, alpha.shape[-1])
                best = alpha.detach().topk(keep, dim=-1).indices
                self.masks[cell].zero_().scatter_(-1, best, 1.0)
                with torch.no_grad():
                    alpha.mul_(self.masks[cell])

    @property
    def alpha_moves(self) -> bool:
        """Not in the first epochs of either stage."""
        return self.epoch - self.stage * (self.config.epochs // 2) >= self.config.arch.warmup

    def open(self, cell: str, mass: Tensor) -> Tensor:
        """Nothing on pruned operations."""
        return mass * self.masks[cell]
