"""The operator as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snsoftmax.functional import Unnamed, sn_softmax


class SNSoftmax(nn.Module):
    """`sn_softmax` with its settings fixed; a call may bring another temperature.

    Temperatures that are tensors are buffers: they move with the module, lie in its `state_dict`,
    and a new value is written in place (``module.temperature.fill_(0.01)``).

    Args:
        temperature: t > 0, a number or a tensor; None where each call brings it.
        scale: s > 1 of Eq. 7, or None; 100 where no smooth temperature is given.
        smooth_temperature: st itself, a number or a tensor; instead of `scale`.
        dim: The dimension that sums to one.
        return_entropy: Also return each row's entropy (Eq. 13), as `sn_softmax` does.

    Raises:
        TypeError, ValueError: as `sn_softmax`, when the module is made.
    """

    temperature: float | Tensor | None
    smooth_temperature: float | Tensor | None

    def __init__(
        self,
        temperature: float | Tensor | None = None,
        *,
        scale: float | Unnamed | None = Unnamed.SCALE,
        smooth_temperature: float | Tensor | None = None,
        dim: int = -1,
        return_entropy: bool = False,
    ) -> None:
        """Check and keep the settings; see the class."""
        super().__init__()
        # The operator is what knows what it takes. A tensor's values are its caller's affair.
        numbers = (1.0 if isinstance(t, Tensor) else t for t in (temperature, smooth_temperature))
        t, smooth = numbers
        sn_softmax(torch.zeros(1), 1.0 if t is None else t, scale=scale, smooth_temperature=smooth)
        self.scale = scale
        self.dim = dim
        self.return_entropy = return_entropy
        for name, value in ("temperature", temperature), ("smooth_temperature", smooth_temperature):
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(
        self, logits: Tensor, temperature: float | Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return β = softmax(logits / temperature), with H if asked for; see `sn_softmax`.

        Raises:
            ValueError: neither the module nor the call has a temperature.
        """
        t = self.temperature if temperature is None else temperature
        if t is None:
            raise ValueError(
                "SNSoftmax: temperature is missing; give it when the module is made or called"
            )
        return sn_softmax(
            logits,
            t,
            scale=self.scale,
            smooth_temperature=self.smooth_temperature,
            dim=self.dim,
            return_entropy=self.return_entropy,
        )

    def extra_repr(self) -> str:
        """Return the settings for printing."""
        return (
            f"temperature={self.temperature}, scale={self.scale}, "
            f"smooth_temperature={self.smooth_temperature}, dim={self.dim}"
        )
