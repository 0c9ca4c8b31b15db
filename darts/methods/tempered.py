"""A temperature that changes between epochs, through sn-softmax (not a method by itself)."""

from __future__ import annotations

from collections.abc import Hashable
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
        """How the backward pass is smoothed, and what the clip of ω covers."""

        scale: float | None = setting(
            None,
            "s of sn-softmax: its smooth temperature is s·t; none = smooth_temperature",
            above=1,
        )
        smooth_temperature: float | None = setting(
            None,
            "st of sn-softmax; 0 = plain softmax; none = 1 where no scale is given",
            at_least=0,
        )
        joint_clip: bool = setting(
            False,
            "clip ω's gradient by the norm of ω's and α's together, as the released code does",
        )

        def __post_init__(self) -> None:
            if self.scale is None and self.smooth_temperature is None:
                object.__setattr__(self, "smooth_temperature", 1.0)
            if self.scale is not None and self.smooth_temperature is not None:
                raise ConfigError(
                    f"options.scale={self.scale:g} and options.smooth_temperature="
                    f"{self.smooth_temperature:g} exclude each other; set one of them to none"
                )

    kept: ClassVar[tuple[str, ...]] = ("current",)
    options: Options
    current: float = 1.0
    """The temperature as a number, so that no step reads it back from the device."""
    sharp: bool = False
    """Whether the smooth term is left out for the moment."""

    def leading(self) -> Weights:
        """α of the cells that the released code looks at: the normal one where there are two."""
        return {cell: self.logits[cell] for cell in self.space.leading}

    def smoothed(self, cell: str) -> bool:
        """Whether the cell's backward pass has the smooth term now."""
        return True

    def switches(self) -> tuple[Hashable, ...]:
        """Which cells have the smooth term, too."""
        return (*super().switches(), *(self.smoothed(cell) for cell in self.logits))

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """sn-softmax at the current temperature (Eq. 8)."""
        smooth = self.smoothed(cell) and not self.sharp
        scale = self.options.scale if smooth else None
        smooth_temperature = (self.options.smooth_temperature or None) if smooth else None
        return sn_softmax(
            logits, self.temperature, scale=scale, smooth_temperature=smooth_temperature
        )

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
