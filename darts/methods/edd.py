"""EDD-DARTS: a small temperature that follows the entropy of β, through sn-softmax.

Zhang, Ding: Small Temperature is All You Need for Differentiable Architecture Search (Algorithm 2,
Eqs 7, 8, 13-15). Read beside the released code (chaoji90/PCDEDD), which differs from the text:

- `schedule="reference-code"`: entropy of softmax(A/t); t = 1 in a warm-up (10 of 50 epochs on
  nb201, 5 elsewhere); an update every 5 epochs, from epoch 40 every epoch with λ doubled; k counts
  updates; t0_exp = 1; in the DARTS spaces only the normal cell is measured, and has the smooth
  term, not while t = 1.
- `schedule="paper"`: entropy of softmax(A) over all cells (Eq. 13); one epoch at t0 = 1, then an
  update every epoch, k the epoch; t0_exp = exp(E(a)/t0) with E(a) = mean of max(a, 0) at the start.

λ = 0.06 with st ≡ 1 is Table 1's setting (0.12 is the best of s = 100). `entropy="sum"` adds the
edges' entropies instead of averaging them, as the code does on nb201: λ = 0.01 there is 0.06 here.
The control "EDD with sn-softmax off" is `--smooth-temperature 0`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from darts.config import SearchConfig, setting
from darts.methods.base import Weights, register
from darts.methods.schedules import INITIAL_EXPECTATION, EDDPlan, EDDState, edd_update
from darts.methods.tempered import Tempered
from darts.spaces import Space
from snsoftmax import sn_softmax


class EntropyDecay(Tempered):
    """The schedule alone, for combinations."""

    kept: ClassVar[tuple[str, ...]] = ("decay",)

    @dataclass(frozen=True)
    class Options(Tempered.Options):
        """EDD's settings."""

        lam: float = setting(0.06, "λ of Eq. 14, how strongly entropy drives the decay", above=0)
        schedule: Literal["reference-code", "paper"] = setting(
            "reference-code", "which account of the schedule is followed"
        )
        entropy: Literal["mean", "sum"] = setting("mean", "E(H(β)): mean or sum over the edges")
        warmup: int | None = setting(
            None,
            "epochs at t = 1; none = one in the text, in the code a fifth of all on nb201, a tenth "
            "elsewhere",
            at_least=0,
        )

    options: Options

    def __init__(self, space: Space, config: SearchConfig) -> None:
        super().__init__(space, config)
        self.decay = EDDState()
        self.follows_paper = self.options.schedule == "paper"
        self.expectation = INITIAL_EXPECTATION * config.arch.initial_scale / 1e-3
        self.start_level = 1.0
        warmup = self.options.warmup
        warmup = self.usual_warmup() if warmup is None else warmup
        plan = EDDPlan.paper if self.follows_paper else EDDPlan.released_code
        self.plan = plan(self.epochs, warmup)
        if self.follows_paper:
            positive = [a.detach().clamp(min=0).mean() for a in self.logits.values()]
            self.expectation = float(torch.stack(positive).mean())
            self.start_level = math.exp(self.expectation)

    def usual_warmup(self) -> int:
        """Epochs at t = 1 where `warmup` gives none."""
        share = 0.2 if self.space.stacked else 0.1
        return 1 if self.follows_paper else round(share * self.epochs)

    def measured(self) -> Weights:
        """α of the cells that decide: only the normal one in the code, where there are two."""
        return self.logits if self.follows_paper else self.leading()

    def smoothed(self, cell: str) -> bool:
        """The code leaves out the smooth term in the warm-up and in the reduction cell."""
        return self.follows_paper or (cell in self.measured() and self.decay.updates > 0)

    def mean_entropy(self) -> float:
        """E(H(β)) of Eq. 13: at temperature 1 in the text, at the current one in the code."""
        t = torch.ones_like(self.temperature) if self.follows_paper else self.temperature
        with torch.no_grad():
            pairs = [
                sn_softmax(a, t, scale=None, return_entropy=True) for a in self.measured().values()
            ]
        edges = torch.cat([entropies for _, entropies in pairs])
        return float(edges.sum() if self.options.entropy == "sum" else edges.mean())

    def temperature_at(self, epoch: int) -> float:
        """Update d and t (Eqs 14, 15) where one is due."""
        if factor := self.plan.factor(epoch):
            self.decay = edd_update(
                self.decay,
                self.mean_entropy(),
                lam=factor * self.options.lam,
                expectation=self.expectation,
                start_level=self.start_level,
            )
        return self.decay.temperature


@register("edd", "EDD-DARTS: small temperature decided by entropy, sn-softmax")
class EDD(EntropyDecay):
    """DARTS with the schedule, trained by its own recipe."""

    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The recipe of the released code."""
        return super().published(space) | {"recipe": "edd"}


@register("edd-clip", "EDD-DARTS with the gradient of α clipped")
class EDDClip(EDD):
    """Table 1's last row; the paper gives no norm, 5 is the one it clips ω with."""

    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """EDD's settings and the clipping."""
        return super().published(space) | {"arch.clip": 5.0}
