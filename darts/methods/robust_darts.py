"""DARTS-ES and R-DARTS (DP, L2): stop when the loss turns sharp in α, or regularise ω more.

Zela, Elsken, Saikia, Marrakchi, Brox, Hutter: Understanding and Robustifying Differentiable
Architecture Search, ICLR 2020 (sections 4 and 5). Read beside automl/RobustDARTS (src/utils.py,
src/search): the largest eigenvalue of ∇²_α L_val on one batch every 2 epochs, local means over 5
values; once a mean exceeds 1.3 times the one 4 values before, with that one not before epoch 10,
the search ends and α goes back to that earlier epoch. R-DARTS (DP) drops paths with a probability
that rises to 0.2 and cuts out 16 pixels; R-DARTS (L2) has 27e-4 for ω's weight decay (their grid is
3, 9, 27, 81e-4; choosing among such runs is a study's business). Their code raises cutout's
probability during the search; here it is on throughout. Their eigenvalues come from the dense
Hessian, here from Lanczos iterations, which end with the same value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Method, Trainer, register
from darts.methods.hessian import largest_eigenvalue
from darts.methods.schedules import linear
from darts.spaces import Space
from darts.supernet import Supernet


@register("darts-es", "DARTS, stopped early when the Hessian's largest eigenvalue grows")
class DARTSES(Method):
    """Watches the curvature of the validation loss."""

    steady = True

    kept: ClassVar[tuple[str, ...]] = ("eigenvalues", "snapshots")

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The stopping rule."""

        every: int = setting(2, "epochs between two eigenvalues", at_least=1)
        window: int = setting(5, "values in a local mean", at_least=1)
        lag: int = setting(4, "values between the two means compared", at_least=1)
        factor: float = setting(1.3, "growth that ends the search", above=1)
        earliest: int = setting(10, "first epoch that α may go back to", at_least=0)

    options: Options

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.eigenvalues: list[float] = []
        self.snapshots: list[list[Tensor]] = []
        """α at each eigenvalue."""

    def curvature(self, trainer: Trainer) -> float:
        """Largest eigenvalue of ∇²_α L_val."""
        return largest_eigenvalue(
            lambda: trainer.validation_loss(self.weights()), self.parameters()
        )

    def end_epoch(self, trainer: Trainer) -> None:
        """Measure; stop and go back if the mean has grown too much."""
        super().end_epoch(trainer)
        if self.epoch % self.options.every:
            return
        self.eigenvalues.append(self.curvature(trainer))
        self.snapshots.append([p.detach().clone() for p in self.parameters()])
        back = self.stop_index()
        if back is not None:
            self.finished = True
            with torch.no_grad():
                for parameter, earlier in zip(self.parameters(), self.snapshots[back], strict=True):
                    parameter.copy_(earlier)

    def stop_index(self) -> int | None:
        """Which measurement to go back to, if the rule says so; means are centred on it."""
        window, lag = self.options.window, self.options.lag
        values = torch.tensor(self.eigenvalues, dtype=torch.float64)
        if len(values) < window + lag:
            return None
        means = values.unfold(0, window, 1).mean(1)
        center = len(means) - 1 - lag + window // 2
        grown = means[-1] > self.options.factor * means[-1 - lag]
        early = center * self.options.every < self.options.earliest
        return None if early or not grown else center


@register("r-darts-dp", "DARTS with dropped paths and cutout")
class RDARTSDP(Method):
    """Drops the paths of the supernet."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The strength."""

        drop_path: float = setting(
            0.2, "probability of dropping a path in the last epoch", at_least=0
        )

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """Cutout comes with it."""
        return super().published(space) | {"data.cutout": 16}

    def prepare(self, net: Supernet) -> None:
        """The probability rises in equal steps."""
        super().prepare(net)
        net.drop_path = linear(0.0, self.options.drop_path, self.epoch, self.config.epochs)


@register("r-darts-l2", "DARTS with more weight decay on ω")
class RDARTSL2(Method):
    """A matter of the recipe alone."""

    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """27e-4 in place of 3e-4."""
        return super().published(space) | {"weights.weight_decay": 27e-4}
