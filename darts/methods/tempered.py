"""A temperature that changes between epochs, through sn-softmax (not a method by itself)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from darts.config import ConfigError, setting
from darts.methods.base import Method, Step, Weights
from snsoftmax import sn_softmax


class Tempered(Method):
    """Replaces softmax by sn-softmax (Eq. 8) at the temperature of `temperature_at`."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        """How the backward pass is smoothed."""

        sn: str = setting(
            "st=1", "sn-softmax: off, st=X (smooth temperature X) or s=X (scale X > 1)"
        )

        joint_clip: bool = setting(
            False,
            "clip ω's gradient by the norm of ω's and α's together, as the released code does",
        )

        def __post_init__(self) -> None:
            self.smoothing()

        def smoothing(self) -> dict[str, float | None]:
            """The operator's arguments that `sn` stands for."""
            kind, _, number = self.sn.partition("=")
            try:
                value = float(number) if number else 0.0
            except ValueError:
                value = 0.0
            if self.sn == "off":
                return {"scale": None}
            if kind == "st" and value > 0:
                return {"scale": None, "smooth_temperature": value}
            if kind == "s" and value > 1:
                return {"scale": value}
            raise ConfigError(
                f"options.sn must be off, st=X with X > 0 or s=X with X > 1, not {self.sn!r}"
            )

    kept: ClassVar[tuple[str, ...]] = ("current",)
    options: Options
    current: float = 1.0
    """The temperature as a number, so that no step reads it back from the device."""
    sharp: bool = False
    """Whether the smooth term is left out for the moment."""

    def leading(self) -> Weights:
        """α of the cells that the released code looks at: the normal one where there are two."""
        return {c: a for c, a in self.logits.items() if c == "normal" or len(self.logits) == 1}

    def smoothed(self, cell: str) -> bool:
        """Whether the cell's backward pass has the smooth term now."""
        return True

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """sn-softmax at the current temperature (Eq. 8)."""
        smooth = self.smoothed(cell) and not self.sharp
        smoothing = self.options.smoothing() if smooth else {"scale": None}
        return sn_softmax(logits, self.temperature, **smoothing)

    def training_weights(self, step: Step) -> Weights:
        """Where the clip is joint, differentiable by the sharp softmax alone.

        The released code adds the smooth term in the arch step only.
        """
        if not self.options.joint_clip:
            return super().training_weights(step)
        self.sharp = True
        try:
            return self.weights()
        finally:
            self.sharp = False

    def clipped_with_weights(self) -> list[Tensor]:
        """α where the clip is joint.

        The released NAS-Bench-201 loop clips `network.parameters()`, α among them. At a small t
        α's gradient is much the larger, so that ω learns at a fraction of its rate.
        """
        return self.parameters() if self.options.joint_clip else []

    def temperature_at(self, epoch: int) -> float:
        """The temperature of `epoch`; called once, at its start."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Set the epoch's temperature."""
        super().begin_epoch(epoch)
        self.current = self.temperature_at(epoch)
        self.set_temperature(self.current)
