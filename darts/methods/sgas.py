"""SGAS+PT and SGAS: edges are decided one after another during the search, the surest first.

Li, Qian, Delgadillo, Müller, Thabet, Ghanem: SGAS: Sequential Greedy Architecture Search, CVPR 2020
(Eqs 4-8). Read beside lightaime/sgas (cnn/train_search.py): after 10 epochs, then every 5, the open
edge with the highest product of importance (β that is not on `none`) and certainty (1 - relative
entropy of the rest), each stretched to [0, 1] over the edges, gets its strongest operation other
than `none`; `--history` multiplies by the mean overlap with the last four distributions (criterion
2). A node that has its two edges loses the others. The code increases the batch as memory frees up;
here it stays.

SGAS+PT (Wang et al., ICLR 2021) has no code: the edge is SGAS's, its operation the one missed most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Trainer, entropy, register
from darts.methods.fixing import Fixing
from darts.methods.perturbation import Perturbation
from darts.spaces import Space


class Greedy(Fixing):
    """Decides the surest edge of each cell at fixed epochs; combines with other methods."""

    kept: ClassVar[tuple[str, ...]] = ("past",)

    @dataclass(frozen=True)
    class Options(Fixing.Options):
        """When decisions fall, and by what."""

        first: int = setting(10, "epochs before the first decision", at_least=1)
        interval: int = setting(5, "epochs between two decisions", at_least=1)
        history: bool = setting(False, "criterion 2: weigh by the overlap with earlier epochs")

    options: Options

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.past: dict[str, list[Tensor]] = {cell: [] for cell in self.logits}

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """As many epochs as the decisions need, five more, and DARTS's training."""
        own = {"weights.nesterov": False, "weights.weight_decay": 3e-4, "arch.first": True}
        return super().published(space) | own | {"epochs": 10 + 5 * (space.decisions - 1) + 5}

    def useful(self, cell: str) -> Tensor:
        """True where a candidate is not `none`, [edges, operations]."""
        rows = [[name != "none" for name in row] for row in self.space.cells[cell].candidates]
        return torch.tensor(rows, device=self.device)

    def certainty(self, cell: str) -> tuple[Tensor, Tensor]:
        """Score of each edge, and its distribution over operations other than `none`."""
        with torch.no_grad():
            mass = super().probabilities()[cell] * self.useful(cell)
        importance = mass.sum(-1)
        shares = mass / importance[:, None]
        sure = 1 - entropy(shares) / math.log(max(2, int(self.useful(cell)[0].sum())))
        score = stretch(importance) * stretch(sure)
        if self.options.history:
            overlaps = [torch.minimum(shares, old).sum(-1) for old in self.past[cell]]
            score = score * stretch(torch.stack(overlaps).mean(0) if overlaps else sure * 0)
            self.past[cell] = [*self.past[cell], shares][-4:]
        return score, shares

    def operation(self, trainer: Trainer, cell: str, edge: int, shares: Tensor) -> int:
        """What a decided edge gets: the strongest operation."""
        return int(shares[edge].argmax())

    def end_epoch(self, trainer: Trainer) -> None:
        """Decide one edge of each cell where that is due."""
        super().end_epoch(trainer)
        since = self.epoch + 1 - self.options.first
        for cell in self.logits:
            score, shares = self.certainty(cell)
            edges = self.undecided(cell)
            if edges and since >= 0 and since % self.options.interval == 0:
                edge = edges[int(score[edges].argmax())]
                self.fixed[cell][edge] = self.operation(trainer, cell, edge, shares)
                self.remove_surplus(cell)


def stretch(values: Tensor) -> Tensor:
    """Shift and scale to [0, 1]; equal values give ones."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.ones_like(values)


@register("sgas", "greedy decisions on the surest edge")
class SGAS(Greedy):
    """SGAS itself."""


@register("sgas-pt", "SGAS's order of edges, operations by perturbation")
class SGASPT(Greedy, Perturbation):
    """The operation is the one whose removal costs most."""

    @dataclass(frozen=True)
    class Options(Greedy.Options, Perturbation.Options):
        """Settings of both parts."""

    options: Options

    def operation(self, trainer: Trainer, cell: str, edge: int, shares: Tensor) -> int:
        """What the supernet misses most."""
        return self.missed_operation(trainer, cell, edge)
