"""EDD-stable: EDD whose α follows what is learnt, not what a small temperature amplifies.

Ours, after Zhang, Ding: Small Temperature is All You Need for Differentiable Architecture Search
(Eq. 8). Below t = 1 the sharp part of EDD's gradient, J_t g / t, is noise of some fifty times the
size of the smooth part, and Adam divides by it: α nearly stands still, and what led by chance at
the end of the warm-up stays (`python -m bench.takeover` shows it). Here both Jacobians count
without their factors, J_t g + J_st g, and Adam forgets the warm-up's gradients at the first drop.
"""

from __future__ import annotations

from torch import Tensor

from darts.methods.base import register
from darts.methods.edd import EDD
from snsoftmax import sn_softmax


@register("edd-stable", "EDD-DARTS with both Jacobians at equal weight (ours)")
class EDDStable(EDD):
    """EDD with another gradient of the same β."""

    steady = True

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """softmax(α/t), with the gradient J_t g + J_st g."""
        sharp = sn_softmax(logits, self.temperature, scale=None)
        if self.sharp or not self.smoothed(cell):
            return sharp
        scale, smooth_at = self.options.scale, self.options.smooth_temperature
        moving = self.temperature * sharp
        if scale is not None:
            smooth = scale * self.temperature
            moving = moving + smooth * sn_softmax(logits, smooth, scale=None)
        elif smooth_at:
            moving = moving + smooth_at * sn_softmax(logits, smooth_at, scale=None)
        return sharp.detach() + moving - moving.detach()

    def begin_epoch(self, epoch: int) -> None:
        """A new Adam at the first drop of the temperature."""
        warming = self.current == 1.0
        super().begin_epoch(epoch)
        if warming and self.current != 1.0:
            self.optimizer = self.make_optimizer()
