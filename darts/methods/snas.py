"""SNAS: β drawn from a concrete distribution, whose temperature falls.

Xie, Zheng, Liu, Lin: SNAS: Stochastic Neural Architecture Search, ICLR 2019. Read: the authors'
code, SNAS-Series/SNAS-Series (SNAS/train_search.py, model_search.py, utils.py). β is softmax((α +
Gumbel noise)/τ), drawn anew in each step for all cells of a type; τ falls from 1 to 0.03; one level
on all training images, 150 epochs, paths dropped with probability 0.3; α from N(1, 0.01²), whose
mean softmax does not see, and its gradient clipped at 10; operations are selected by α.

There ω and α move by one sample's gradients on one batch; here each step has a sample and a batch
of its own. α moves by Adam, as in the code on several GPUs; on one it has SGD of the same rate. The
penalty on size, operations and memory is left out. In the DARTS spaces the code keeps all edges, a
genotype here two a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from darts.config import setting
from darts.methods import schedules
from darts.methods.base import register
from darts.methods.gdas import GDAS
from darts.spaces import Space
from darts.supernet import Supernet


@register("snas", "β from a concrete distribution with a falling temperature, one level")
class SNAS(GDAS):
    """Takes the relaxed sample where GDAS takes its largest entry.

    An entry that underflows to 0 is not computed, as it has no part in loss or gradient.
    """

    @dataclass(frozen=True)
    class Options(GDAS.Options):
        """SNAS's temperatures and dropped paths."""

        tau_max: float = setting(1.0, "first temperature of the Gumbel softmax", above=0)
        tau_min: float = setting(0.03, "last temperature of the Gumbel softmax", above=0)

        drop_path: float = setting(0.3, "probability of dropping a path", at_least=0, at_most=0.95)

    options: Options
    single_level = True
    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released search."""
        arch = {"arch.initial_scale": 0.01, "arch.clip": 10.0}
        weights = {"weights.nesterov": False, "weights.weight_decay": 3e-4}
        return super().published(space) | arch | weights | {"epochs": 150}

    def begin_epoch(self, epoch: int) -> None:
        """The temperature falls before each epoch, the first too."""
        super().begin_epoch(epoch)
        high, low = self.options.tau_max, self.options.tau_min
        self.set_temperature(schedules.linear(high, low, epoch + 1, self.epochs + 1))

    def prepare(self, net: Supernet) -> None:
        """Paths are dropped from the start."""
        super().prepare(net)
        net.drop_path = self.options.drop_path

    def sample(self, cell: str, logits: Tensor) -> Tensor:
        """softmax((α + Gumbel noise)/τ) with its own gradient."""
        return self.relaxed(cell, logits)
