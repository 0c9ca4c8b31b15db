"""DARTS, second order: α moved by the validation loss after one unrolled step of ω.

Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019 (Eqs 6-8, Algorithm 1 with
ξ = the learning rate of ω). The product with the mixed Hessian is their finite difference (Eq. 8)
as in quark0/darts (architect.py) and AutoDL-Projects; `--exact` differentiates through the step.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from darts.config import setting
from darts.methods.base import Method, Step, register
from darts.supernet.step import unrolled_arch_step


@register("darts-v2", "DARTS, second order")
class DARTSV2(Method):
    """Replaces the gradient of α."""

    capturable = False  # differentiates through several networks

    @dataclass(frozen=True)
    class Options(Method.Options):
        """How the unrolled step is differentiated."""

        exact: bool = setting(False, "through the unrolled step instead of by finite differences")

    options: Options

    def arch_gradients(self, step: Step) -> list[Tensor]:
        """∂L_val(ω - ξ·∂L_train, α)/∂α."""
        alphas = self.parameters()
        step.arch_loss.outcome = unrolled_arch_step(
            step.net,
            step.weight_batch,
            step.arch_batch,
            self.weights,
            alphas,
            step.optimizer,
            exact=self.options.exact,
        )
        return [alpha.grad for alpha in alphas if alpha.grad is not None]
