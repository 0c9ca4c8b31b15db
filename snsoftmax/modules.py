"""The operator as a module."""

from __future__ import annotations

from torch import Tensor, nn

from snsoftmax.functional import DEFAULT_SCALE, sn_softmax


class SNSoftmax(nn.Module):
    """`sn_softmax` with everything fixed but the temperature, which each call brings.

    Args:
        scale: s > 1 of Eq. 7, or None.
        smooth_temperature: st itself; replaces the default `scale`.
        dim: The dimension that sums to one.
    """

    def __init__(
        self,
        scale: float | None = DEFAULT_SCALE,
        smooth_temperature: float | Tensor | None = None,
        dim: int = -1,
    ) -> None:
        """Keep the settings; see the class."""
        super().__init__()
        self.scale = scale
        self.smooth_temperature = smooth_temperature
        self.dim = dim

    def forward(self, logits: Tensor, temperature: float | Tensor) -> Tensor:
        """Return β = softmax(logits / temperature); see `sn_softmax`."""
        return sn_softmax(
            logits,
            temperature,
            scale=self.scale,
            smooth_temperature=self.smooth_temperature,
            dim=self.dim,
        )

    def extra_repr(self) -> str:
        """Return the settings for printing."""
        return f"scale={self.scale}, smooth_temperature={self.smooth_temperature}, dim={self.dim}"
