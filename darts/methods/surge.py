"""SurgeNAS: one level, one path at a time in an order that treats all operations alike.

Luo, Liu, Kong, Huai, Chen, Liu: SurgeNAS: A Comprehensive Surgery on Hardware-Aware Differentiable
Neural Architecture Search, IEEE Transactions on Computers 2022. No code was released, and only the
abstract could be read here. What it says: "we leverage the one-level optimization", "an effective
identity mapping regularization to alleviate the over-selecting issue", "an ordered differentiable
sampling approach, which significantly reduces the search memory consumption to the single-path
level [and] guarantees the strict search fairness", and a latency predictor. Assumed from it: each
edge draws an order of its M operations without replacement (Gumbel-top-k, which follows
softmax(α)); each of the next M steps runs the operation at that place, so that each is trained once
in M steps; α's gradient is straight-through as in GDAS; the regularisation is a weight times the
mean of β on skip_connect. In the predictor's place stands every method's own budget: with
`--max-latency` the expected latency by a table that was measured on the device is a term of the
arch step (`darts.budgets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Loss, Step, Weights, register
from darts.methods.gdas import SinglePath, chosen


@register("surge", "one level, ordered single-path sampling")
class SurgeNAS(SinglePath):
    """Replaces GDAS's sampling by an order, and adds a penalty."""

    single_level = True
    steady = True
    kept: ClassVar[tuple[str, ...]] = ("ranks", "place")

    @dataclass(frozen=True)
    class Options(SinglePath.Options):
        """The penalty's weight."""

        identity: float = setting(0.1, "weight of the mean β on skip_connect", at_least=0)

    options: Options

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.place = torch.zeros((), dtype=torch.int64, device=self.device)
        self.ranks = {cell: torch.zeros_like(a).detach() for cell, a in self.logits.items()}
        self.penalties = {
            name: torch.tensor(
                [
                    [self.options.identity / len(cell.edges) * (o == "skip_connect") for o in row]
                    for row in cell.candidates
                ],
                device=self.device,
            )
            for name, cell in self.space.cells.items()
        }
        """What a unit of β on each operation costs, [edges, operations]."""

    @torch.no_grad()
    def advance(self) -> None:
        """Go to the next place in the order, or to new orders after the last and at the start.

        Orders are drawn each time, so that nothing is decided on the host.
        """
        cells = self.space.cells.values()
        operations = max(len(cell.candidates[0]) for cell in cells if not cell.maps)
        drawn = torch.stack([ranks.any() for ranks in self.ranks.values()]).all()
        self.place.copy_(torch.where(drawn, (self.place + 1) % operations, 0))
        for cell, logits in self.logits.items():
            noise = -torch.empty_like(logits).exponential_(generator=self.generator).log()
            ranks = (logits + noise).argsort(-1, descending=True).argsort(-1)
            self.ranks[cell].copy_(torch.where(self.place == 0, ranks, self.ranks[cell]))

    def sample(self, cell: str, logits: Tensor) -> Tensor:
        """The operation at the current place, with the gradient of softmax(α)."""
        soft = self.normalize(cell, logits)
        return chosen(soft, (self.ranks[cell] == self.place % logits.shape[-1]).int().argmax(-1))

    def training_weights(self, step: Step) -> Weights:
        """The next path."""
        self.advance()
        return super().training_weights(step)

    def arch_objective(self, loss: Loss) -> Tensor:
        """The path's loss, and a weight times the mean β on skip_connect over a cell's edges."""
        objective = super().arch_objective(loss)
        for cell, beta in self.probabilities().items():
            objective = objective + (beta * self.penalties[cell]).sum()
        return objective
