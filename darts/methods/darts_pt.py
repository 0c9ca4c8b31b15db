"""DARTS+PT and SDARTS-RS+PT: perturbation-based selection after the search.

Wang, Cheng, Chen, Tang, Hsieh: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021;
see `darts.methods.perturbation` for what was read and assumed. "Fixed" leaves α at the uniform
start (blank in ruocwang/darts-pt), so that only ω is searched with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darts.methods.base import register
from darts.methods.perturbation import PerturbationSelection
from darts.methods.sdarts import Perturbed
from darts.spaces import Space


@register("darts-pt", "DARTS, selection by perturbation, α learnt")
class DARTSPT(PerturbationSelection):
    """DARTS's search."""


@register("darts-pt-fixed", "uniform β throughout, selection by perturbation")
class DARTSPTFixed(PerturbationSelection):
    """No search of α at all."""

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """α starts, and stays, at 0."""
        return super().published(space) | {"arch.initial_scale": 0.0}

    @property
    def alpha_moves(self) -> bool:
        """Never."""
        return False


@register("sdarts-rs-pt", "SDARTS-RS, selection by perturbation")
class SDARTSRSPT(PerturbationSelection, Perturbed):
    """SDARTS-RS's search and tuning."""

    @dataclass(frozen=True)
    class Options(PerturbationSelection.Options, Perturbed.Options):
        """Settings of both parts."""

    options: Options
