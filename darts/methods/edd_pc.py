"""EDD-PC-DARTS: EDD's temperature and sn-softmax, partial channels.

Zhang, Ding: Small Temperature is All You Need for Differentiable Architecture Search (Tables 3, 4).
The released code (chaoji90/PCDEDD) has no script for the combination on the DARTS space; the parts
are PC-DARTS's training (its α-free warm-up of 15 epochs included) without weight decay on α, and
EDD's schedule, whose own warm-up at t = 1 ends later than it where the search is long enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darts.methods.base import register
from darts.methods.edd import EntropyDecay
from darts.methods.pc_darts import PartialChannels
from darts.spaces import Space


@register("edd-pc", "EDD-DARTS with PC-DARTS's partial channels")
class EDDPC(EntropyDecay, PartialChannels):
    """Both parts."""

    steady = True

    @dataclass(frozen=True)
    class Options(EntropyDecay.Options, PartialChannels.Options):
        """Settings of both parts."""

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """PC-DARTS's training, no weight decay on α."""
        return super().published(space) | {"arch.weight_decay": 0.0}
