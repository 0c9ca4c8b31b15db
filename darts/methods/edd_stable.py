"""EDD-stable: EDD whose α rests until the temperature is small, which then falls every epoch.

Ours, after Zhang, Ding: Small Temperature is All You Need for Differentiable Architecture Search
(Algorithm 2, Eq. 15). The text is cold from the second epoch on, and decides about the operations
before ω has learnt to tell them apart. The released code waits at t = 1, where Adam moves α by full
steps however small its gradient is: α is some hundred times as large as Eq. 15 assumes when the
temperature drops, and whatever leads by chance becomes near one-hot. Then it pauses at each
temperature, in which DARTS's preference for `skip_connect` and `none` has time to act. Here a fifth
of the epochs train ω alone, on evenly mixed operations, and the text's schedule follows.
"""

from __future__ import annotations

from typing import Any

from darts.methods.base import register
from darts.methods.edd import EDD
from darts.spaces import Space


@register("edd-stable", "EDD-DARTS whose α rests until the temperature is small (ours)")
class EDDStable(EDD):
    """The text's schedule after epochs without arch steps."""

    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """EDD's settings with the schedule of the text."""
        return super().published(space) | {"options.schedule": "paper"}

    def usual_warmup(self) -> int:
        """A fifth of the epochs, as the released code on NAS-Bench-201."""
        return round(0.2 * self.epochs)

    @property
    def alpha_moves(self) -> bool:
        """From the first drop of the temperature on."""
        return super().alpha_moves and self.current != 1.0
