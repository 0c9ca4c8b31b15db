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
mean of β on skip_connect; latency is the expected sum over edges of a table's entries, times a
weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import ConfigError, setting
from darts.methods.base import Loss, Step, Weights, register
from darts.methods.gdas import SinglePath, chosen


@register("surge", "one level, ordered single-path sampling, optional latency")
class SurgeNAS(SinglePath):
    """Replaces GDAS's sampling by an order, and adds two penalties."""

    single_level = True
    steady = True
    kept: ClassVar[tuple[str, ...]] = ("ranks", "place")

    @dataclass(frozen=True)
    class Options(SinglePath.Options):
        """The penalties."""

        identity: float = setting(0.1, "weight of the mean β on skip_connect", at_least=0)
        latency: str = setting("", "latencies as name=milliseconds,name=milliseconds")
        latency_weight: float = setting(0.1, "weight of the expected latency", at_least=0)

    options: Options

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.place = torch.zeros((), dtype=torch.int64, device=self.device)
        self.ranks = {cell: torch.zeros_like(a).detach() for cell, a in self.logits.items()}
        costs = read_latencies(self.options.latency)
        for cell in self.space.cells.values() if costs else ():
            missing = {name for row in cell.candidates for name in row}.difference(costs)
            if missing:
                raise ConfigError(f"options.latency lacks {', '.join(sorted(missing))}")
        self.penalties = {name: self._penalty(costs, name) for name in self.space.cells}

    def _penalty(self, costs: dict[str, float], cell: str) -> Tensor:
        """What a unit of β on each operation costs, [edges, operations]."""
        table = self.space.cells[cell]
        share = self.options.identity / len(table.edges)
        rows = [
            [
                share * (name == "skip_connect")
                + self.options.latency_weight * costs.get(name, 0.0)
                for name in row
            ]
            for row in table.candidates
        ]
        return torch.tensor(rows, device=self.device)

    @torch.no_grad()
    def advance(self) -> None:
        """Go to the next place in the order, or to new orders after the last and at the start.

        Orders are drawn each time, so that nothing is decided on the host.
        """
        operations = next(iter(self.logits.values())).shape[-1]
        drawn = torch.stack([ranks.any() for ranks in self.ranks.values()]).all()
        self.place.copy_(torch.where(drawn, (self.place + 1) % operations, 0))
        for cell, logits in self.logits.items():
            noise = -torch.empty_like(logits).exponential_(generator=self.generator).log()
            ranks = (logits + noise).argsort(-1, descending=True).argsort(-1)
            self.ranks[cell].copy_(torch.where(self.place == 0, ranks, self.ranks[cell]))

    def sample(self, cell: str, logits: Tensor) -> Tensor:
        """The operation at the current place, with the gradient of softmax(α)."""
        soft = self.normalize(cell, logits)
        return chosen(soft, (self.ranks[cell] == self.place).int().argmax(-1))

    def training_weights(self, step: Step) -> Weights:
        """The next path."""
        self.advance()
        return super().training_weights(step)

    def arch_objective(self, loss: Loss) -> Tensor:
        """The path's loss and both penalties on β."""
        objective = super().arch_objective(loss)
        for cell, beta in self.probabilities().items():
            objective = objective + (beta * self.penalties[cell]).sum()
        return objective


def read_latencies(text: str) -> dict[str, float]:
    """Parse "name=1.2,name=0.3"; ConfigError where it is not of that form."""
    try:
        pairs = [pair.split("=") for pair in text.split(",") if pair]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ConfigError(
            f"options.latency must look like name=1.2,name=0.3, not {text!r}"
        ) from None
