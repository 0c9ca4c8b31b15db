"""Candidate layers of a chain: inverted residuals, and the skip.

Sandler et al., MobileNetV2 (CVPR 2018): a 1x1 convolution that widens, a depthwise one, a 1x1 one
that narrows without an activation. The choices are those of ProxylessNAS (Cai et al., ICLR 2019):
kernels of 3, 5 and 7, expansion by 3 and 6, and to be left out. The activation is ReLU, where they
have ReLU6.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import Conv2d, DepthwiseConv2d, drop_path

LayerFactory = Callable[[int, int, int, bool, bool], nn.Module]
"""(channels that enter, that leave, stride, affine, track running statistics) → module."""


def keeps(inputs: int, outputs: int, stride: int) -> bool:
    """Whether a layer's output has the size of its input, which can then be added or passed on."""
    return inputs == outputs and stride == 1


class InvertedResidual(nn.Module):
    """Widen, convolve each channel, narrow; the input is added where it has the output's size.

    ``drop_path``: probability of dropping what is added to the input, for a sample while training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        expansion: int,
        stride: int,
        affine: bool,
        track: bool,
    ) -> None:
        super().__init__()
        hidden = expansion * inputs

        def norm(channels: int) -> BatchNorm2d:
            return BatchNorm2d(channels, affine=affine, track_running_stats=track)

        self.residual = keeps(inputs, outputs, stride)
        self.drop_path = 0.0
        self.expand = Conv2d(inputs, hidden, 1)
        self.expand_norm = norm(hidden)
        self.depthwise = DepthwiseConv2d(hidden, kernel, stride, 1)
        self.depthwise_norm = norm(hidden)
        self.project = Conv2d(hidden, outputs, 1)
        self.project_norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.expand_norm(self.expand(x)).relu()
        y = self.depthwise_norm(self.depthwise(y)).relu()
        out: Tensor = self.project_norm(self.project(y))
        if not self.residual:
            return out
        return x + (drop_path(out, self.drop_path) if self.training and self.drop_path else out)


def _skip(inputs: int, outputs: int, stride: int, affine: bool, track: bool) -> nn.Module:
    if not keeps(inputs, outputs, stride):
        raise ValueError(
            f"skip_connect cannot lead from {inputs} to {outputs} channels at stride {stride}"
        )
    return nn.Identity()


def _inverted(kernel: int, expansion: int) -> LayerFactory:
    return lambda inputs, outputs, stride, affine, track: InvertedResidual(
        inputs, outputs, kernel, expansion, stride, affine, track
    )


LAYERS: dict[str, LayerFactory] = {
    **{
        f"mb_conv_{kernel}x{kernel}_e{expansion}": _inverted(kernel, expansion)
        for kernel in (3, 5, 7)
        for expansion in (3, 6)
    },
    "skip_connect": _skip,
}
"""Layer name → its factory."""
