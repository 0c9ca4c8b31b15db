"""EDD-DARTS and PCD-DARTS as their authors' scripts run them (chaoji90/PCDEDD), space by space.

Zhang, Ding: Small Temperature is All You Need for Differentiable Architecture Search. What the
scripts do and the text does not say:

- NAS-Bench-201 (AutoDL-Projects_edd and _pcd, exps/algos/DARTS-V1-10.py, -100.py): ω is clipped by
  the norm of ω's and α's gradients together; the smaller last batch of an epoch is kept; images of
  arch steps are drawn with replacement. EDD's two scripts are one as released: plain softmax, since
  the smooth term is commented out in both, and λ = 0.04 on the sum of the edges' entropies.
- Everywhere the supernet is tested after each epoch at t = 1e-4, by running statistics (Fig. 4B).
- DARTS space (PCDEDD-DARTS/train_search_pl.py, train_search_cyc.py): as `edd` and `pcd`, which
  follow them.
- S1 to S4 (SmoothDARTS/sota/pcdedd, the same names): the weight step mixes with
  softmax(softmax(α)/t); architectures are read from β rounded to three decimals, so that at a small
  t edges tie, of which the first win, and operations, of which the last one wins.
  λ = 0.12, d = 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from darts.config import setting
from darts.methods.base import Step, Weights, register
from darts.methods.edd import EDD
from darts.methods.pcd import PCD
from darts.methods.tempered import Tempered
from darts.spaces import Space
from snsoftmax import sn_softmax


class Released(Tempered):
    """What both have in common."""

    @dataclass(frozen=True)
    class Options(Tempered.Options):
        """What only the scripts for S1 to S4 do."""

        twice: bool = setting(False, "the weight step takes the softmax of softmax(α)")
        decimals: int = setting(
            0, "decimals of β that architectures are read from; 0 = all", at_least=0
        )

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """What the space's scripts share."""
        own: dict[str, Any] = {}
        if space.stacked:
            own = {"options.joint_clip": True, "data.keep_last": True, "data.replacement": True}
        elif not space.many_candidates:
            own = {"options.twice": True, "options.decimals": 3}
        return super().published(space) | own

    def training_weights(self, step: Step) -> Weights:
        """softmax(softmax(α)/t) where asked for."""
        if not self.options.twice:
            return super().training_weights(step)
        with torch.no_grad():
            once = {cell: sn_softmax(a, 1.0, scale=None) for cell, a in self.logits.items()}
            return {cell: self.normalize(cell, beta) for cell, beta in once.items()}

    def discretised(self) -> Weights:
        """softmax(α/t) at t = 1e-4 (Fig. 4B)."""
        with torch.no_grad():
            return {c: sn_softmax(a, 1e-4, scale=None) for c, a in self.logits.items()}

    def scores(self) -> Weights:
        """β, rounded where asked for; of equal operations of an edge the last is ahead."""
        scores = super().scores()
        if self.options.decimals:
            for cell, beta in scores.items():
                rounded = beta.round(decimals=self.options.decimals)
                equal = rounded[:, None, :] == rounded[:, :, None]
                scores[cell] = rounded - 1e-6 * equal.triu(1).sum(-1)
        return scores


@register("edd-reference-code", "EDD-DARTS as its authors' scripts run it")
class EDDReferenceCode(Released, EDD):
    """EDD with what the scripts do besides."""

    steady = True

    @dataclass(frozen=True)
    class Options(Released.Options, EDD.Options):
        """Settings of both parts."""

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The values of the space's script."""
        own: dict[str, Any] = {}
        if space.stacked:
            own = {"smooth_temperature": 0.0, "lam": 0.04, "entropy": "sum"}
        elif not space.many_candidates:
            own = {"lam": 0.12}
        return super().published(space) | {f"options.{name}": v for name, v in own.items()}


@register("pcd-reference-code", "PCD-DARTS as its authors' scripts run it")
class PCDReferenceCode(Released, PCD):
    """PCD with what the scripts do besides."""

    steady = True

    @dataclass(frozen=True)
    class Options(Released.Options, PCD.Options):
        """Settings of both parts."""

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The values of the space's script."""
        small = not (space.stacked or space.many_candidates)
        return super().published(space) | ({"options.strength": 0.1} if small else {})
