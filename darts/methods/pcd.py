"""PCD-DARTS and LPCD-DARTS: temperatures fixed beforehand, in cycles.

Zhang, Ding: Small Temperature is All You Need for Differentiable Architecture Search (section 4,
Fig. 4A). Read beside the released code (chaoji90/PCDEDD, AutoDL-Projects_pcd): PCD falls by ETS
with d = 0.11 and rises again in cycles of ten epochs (on NAS-Bench-201 the first five at t = 1)
and ends in one descent of ten; LPCD does the same in equal steps of t. λ plays no part. The code
trains them like EDD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darts.config import setting
from darts.methods import schedules
from darts.methods.base import register
from darts.methods.tempered import Tempered
from darts.spaces import Space


class Cyclic(Tempered):
    """What both have in common."""

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """Trained like EDD."""
        return super().published(space) | {"recipe": "edd"}

    def smoothed(self, cell: str) -> bool:
        """As in the released code: not while t = 1, and not in the reduction cell."""
        return self.current != 1.0 and cell in self.leading()


@register("pcd", "DARTS under a cyclic exponential temperature schedule")
class PCD(Cyclic):
    """A static ETS in cycles."""

    steady = True

    @dataclass(frozen=True)
    class Options(Cyclic.Options):
        """PCD's schedule."""

        strength: float = setting(0.11, "d of Eq. 11, the step between decay points", above=0)

    options: Options

    def temperature_at(self, epoch: int) -> float:
        """The list's entry."""
        warmup = 5 if self.space.stacked else 0  # as in the released scripts, space by space
        return schedules.pcd(self.epochs, strength=self.options.strength, warmup=warmup)[epoch]


@register("lpcd", "DARTS under a cyclic linear temperature schedule")
class LPCD(Cyclic):
    """A static LTS in cycles."""

    steady = True

    @dataclass(frozen=True)
    class Options(Cyclic.Options):
        """LPCD's schedule."""

        target: float = setting(1e-3, "lowest temperature of a cycle", above=0, at_most=0.5)

    options: Options

    def temperature_at(self, epoch: int) -> float:
        """The list's entry."""
        return schedules.lpcd(self.epochs, target=self.options.target)[epoch]
