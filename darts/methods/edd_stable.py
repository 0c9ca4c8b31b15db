"""EDD-stable: EDD whose α rests until the temperature is small.

Ours, after Zhang, Ding: Small Temperature is All You Need for Differentiable Architecture Search
(Eq. 15). The first temperature below 1 is set for the initial α, E(a) = 0.000399. In the released
code's epochs at t = 1 Adam moves α by full steps, however small its gradient is, so that α is some
hundred times as large by then, and the first drop makes whatever happens to lead near one-hot.
Here those epochs train ω alone, on evenly mixed operations, and α meets the drop as Eq. 15 has it.
"""

from __future__ import annotations

from darts.methods.base import register
from darts.methods.edd import EDD


@register("edd-stable", "EDD-DARTS whose α rests until the temperature is small (ours)")
class EDDStable(EDD):
    """EDD without arch steps at t = 1."""

    steady = True

    @property
    def alpha_moves(self) -> bool:
        """From the first drop of the temperature on."""
        return super().alpha_moves and self.current != 1.0
