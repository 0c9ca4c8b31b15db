"""GDAS: one operation an edge, drawn by the Gumbel-max trick, with a straight-through gradient.

Dong, Yang: Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019 (Eqs 3-7).
Settings of AutoDL-Projects (configs/nas-benchmark/algos/GDAS.config): 250 epochs, τ from 10 to 0.1
in equal steps. Only the drawn operation is computed, in both steps (but in a step that is recorded
on a GPU), and only its weight has a gradient, as the paper says. AutoDL-Projects' "gdas" adds the
weights of the others, zeros, to the feature map as numbers, which gives each the sum of the map's
gradient; that is not reproduced. (Its "gdas_v1", meant to be without, is refused by its own check
of modes.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.methods import schedules
from darts.methods.base import Loss, Method, Weights, one_hot, register
from darts.spaces import Space
from snsoftmax import sn_softmax


def chosen(soft: Tensor, index: Tensor) -> Tensor:
    """1 at `index` of each row, with the gradient of `soft`; exact zeros without one elsewhere.

    So it does not matter whether what was not drawn is computed: on the CPU it is not, in a step
    that is recorded on a GPU it is, where running batch-norm statistics follow it too.
    """
    return one_hot(index, soft) * (1 + (soft - soft.detach()))


class SinglePath(Method):
    """Samples one operation an edge; the base of GDAS and its kin."""

    def probabilities(self) -> Weights:
        """softmax(α), which the samples follow whatever τ is."""
        return {cell: sn_softmax(a, 1.0, scale=None) for cell, a in self.logits.items()}

    def relaxed(self, cell: str, logits: Tensor) -> Tensor:
        """softmax((α + Gumbel noise)/τ), whose largest entry of a row follows softmax(α)."""
        noise = -torch.empty_like(logits).exponential_(generator=self.generator).log()
        return self.normalize(cell, logits + noise)

    def sample(self, cell: str, logits: Tensor) -> Tensor:
        """A hard sample whose gradient is that of softmax((α + Gumbel noise)/τ)."""
        soft = self.relaxed(cell, logits)
        return chosen(soft, soft.argmax(-1))

    def weights(self) -> Weights:
        """A fresh sample of every edge; of what nodes read, a relaxed one.

        NAS-Bench-1Shot1's GDAS does so, since hard samples of it made gradients explode.
        """
        cells, logits = self.space.cells, self.logits
        return {
            c: (self.relaxed if cells[c].maps else self.sample)(c, a) for c, a in logits.items()
        }

    def arch_objective(self, loss: Loss) -> Tensor:
        """The loss of the sample, computing nothing but it."""
        return loss(self.weights(), skip=True)


@register("gdas", "Gumbel-max sampling of one operation an edge")
class GDAS(SinglePath):
    """Adds the schedule of τ."""

    @dataclass(frozen=True)
    class Options(SinglePath.Options):
        """GDAS's temperatures."""

        tau_max: float = setting(10.0, "first temperature of the Gumbel softmax", above=0)
        tau_min: float = setting(0.1, "last temperature of the Gumbel softmax", above=0)

    options: Options
    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """Five times as long as DARTS."""
        return super().published(space) | {"epochs": 250}

    def begin_epoch(self, epoch: int) -> None:
        """The temperature falls in equal steps."""
        super().begin_epoch(epoch)
        high, low = self.options.tau_max, self.options.tau_min
        self.set_temperature(schedules.linear(high, low, epoch, self.epochs))


@register("ets-gdas", "GDAS with an exponential temperature schedule")
class ETSGDAS(GDAS):
    """Table 1's ETS-GDAS: τ by Eqs 11 and 12 between GDAS's own end points.

    There is no code. E(a) is assumed to be that of the architecture parameters at the start (4e-4),
    because the paper defines it so; 1/τ then falls in practically equal steps.
    """

    steady = True

    def begin_epoch(self, epoch: int) -> None:
        """The temperature falls in equal steps of exp(E(a)/τ)."""
        super().begin_epoch(epoch)
        points = max(1, self.epochs - 1)
        tau = schedules.ets(
            self.options.tau_max, self.options.tau_min, points, schedules.INITIAL_EXPECTATION
        )
        self.set_temperature(tau[min(epoch, points)])
