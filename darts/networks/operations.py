"""The candidate operations as ordinary modules, one module per operation.

Stand-alone networks are made of these; the fast supernet computes the same functions batched over
edges. Sources: NAS-Bench-201 (Dong & Yang 2020), DARTS (Liu et al. 2019), S4's noise (Zela et al.
2020). Convolutions have no bias: batch normalisation follows each and would remove it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.devices import parallel
from darts.networks.normalization import BatchNorm2d
from snsoftmax.convolve import convolve, convolve_strided, convolves
from snsoftmax.depthwise import depthwise
from snsoftmax.rectify_average import rectifies, rectify


class ReLU(nn.ReLU):
    """A `torch.nn.ReLU` that is made by `snsoftmax.rectify_average` while a CPU trains it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if self.training and rectifies(input):
            return rectify(input)
        return super().forward(input)


class Conv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` without bias that keeps the size, or halves it at stride 2.

    While training it is made by `snsoftmax.convolve` where that is the fastest way.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if self.training and convolves(input, self.weight):
            if self.stride[0] == 1:
                return convolve(input, [self.weight])[0]
            if self.stride[0] == 2:
                return convolve_strided(input, self.weight)
        return super().forward(input)


class ReLUConvNorm(nn.Sequential):
    """ReLU, convolution, batch normalisation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, affine: bool, track: bool
    ) -> None:
        super().__init__(
            ReLU(),
            Conv2d(inputs, outputs, kernel, stride),
            BatchNorm2d(outputs, affine=affine, track_running_stats=track),
        )


class ConvNormReLU(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, affine: bool, track: bool
    ) -> None:
        super().__init__(
            Conv2d(inputs, outputs, kernel, stride),
            BatchNorm2d(outputs, affine=affine, track_running_stats=track),
            ReLU(),
        )


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `torch.nn.Conv2d` that keeps the size at stride 1.

    While training it is made by `snsoftmax.depthwise`, whose gradients cost less than PyTorch's.
    """

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        if not self.training:
            return super().forward(input)
        (y,) = depthwise(input, [self.weight], self.stride[0], [self.dilation[0]])
        return y


class DepthwiseConv(nn.Sequential):
    """ReLU, depthwise and pointwise convolution, batch normalisation."""

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int, affine: bool, track: bool
    ) -> None:
        super().__init__(
            ReLU(),
            DepthwiseConv2d(channels, kernel, stride, dilation),
            Conv2d(channels, channels, 1),
            BatchNorm2d(channels, affine=affine, track_running_stats=track),
        )


def to_even(x: Tensor) -> Tensor:
    """``x`` with a row and a column of zeros at the end where its height or width is odd.

    What is then taken at every second pixel has the size that a padded convolution of stride 2
    gives, from whichever of the first two pixels it begins.
    """
    height, width = x.shape[2:]
    if height % 2 == 0 and width % 2 == 0:
        return x
    return F.pad(x, (0, width % 2, 0, height % 2))


class FactorizedReduce(nn.Module):
    """Halve the resolution: two stride-2 1x1 convolutions, one of them shifted by a pixel."""

    def __init__(self, inputs: int, outputs: int, affine: bool, track: bool) -> None:
        if outputs % 2:
            raise ValueError(f"outputs={outputs} must be even")
        super().__init__()
        self.conv_1 = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.norm = BatchNorm2d(outputs, affine=affine, track_running_stats=track)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        x = to_even(images.relu())
        # Sliced first, because oneDNN's strided 1x1 convolution of the shifted map, channels last
        # and few channels wide, corrupts the heap (torch 2.14, AVX-512).
        halves = self.conv_1(x[:, :, ::2, ::2]), self.conv_2(x[:, :, 1::2, 1::2])
        y: Tensor = self.norm(torch.cat(halves, dim=1))
        return y


class Zero(nn.Module):
    """A zero map of the output's size; as many channels leave as enter, or ``outputs``."""

    def __init__(self, stride: int, outputs: int = 0) -> None:
        super().__init__()
        self.stride = stride
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
        return y[:, :1].repeat(1, self.outputs, 1, 1) if self.outputs else y


def noise_like(x: Tensor) -> Tensor:
    """Standard normal noise of x's shape, drawn in the same order whatever x's memory format."""
    shape = (parallel.world() * len(x), *x.shape[1:])
    return parallel.own(torch.randn(shape, dtype=x.dtype, device=x.device))


class Noise(nn.Module):
    """Standard normal noise of the output's size, whatever the input (S4)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return noise_like(x[:, :, :: self.stride, :: self.stride])


Factory = Callable[[int, int, bool, bool], nn.Module]


def _separable(kernel: int) -> Factory:
    return lambda channels, stride, affine, track: nn.Sequential(
        DepthwiseConv(channels, kernel, stride, 1, affine, track),
        DepthwiseConv(channels, kernel, 1, 1, affine, track),
    )


def _dilated(kernel: int) -> Factory:
    return lambda channels, stride, affine, track: DepthwiseConv(
        channels, kernel, stride, 2, affine, track
    )


def _convolution(kernel: int) -> Factory:
    return lambda channels, stride, affine, track: ReLUConvNorm(
        channels, channels, kernel, stride, affine, track
    )


OPERATIONS: dict[str, Factory] = {
    "none": lambda channels, stride, affine, track: Zero(stride),
    "noise": lambda channels, stride, affine, track: Noise(stride),
    "skip_connect": lambda channels, stride, affine, track: (
        nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine, track)
    ),
    "avg_pool_3x3": lambda channels, stride, affine, track: nn.AvgPool2d(
        3, stride, 1, count_include_pad=False
    ),
    "max_pool_3x3": lambda channels, stride, affine, track: nn.MaxPool2d(3, stride, 1),
    "nor_conv_1x1": _convolution(1),
    "nor_conv_3x3": _convolution(3),
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
}
"""Operation name → (channels, stride, affine, track running statistics) → module."""


def _resizing(kernel: int) -> ResizingFactory:
    return lambda inputs, outputs, stride, affine, track: ReLUConvNorm(
        inputs, outputs, kernel, stride, affine, track
    )


def _resizing_skip(inputs: int, outputs: int, stride: int, affine: bool, track: bool) -> nn.Module:
    if stride == 2:
        return FactorizedReduce(inputs, outputs, affine, track)
    return nn.Sequential(
        Conv2d(inputs, outputs, 1),
        BatchNorm2d(outputs, affine=affine, track_running_stats=track),
    )


ResizingFactory = Callable[[int, int, int, bool, bool], nn.Module]
RESIZING: dict[str, ResizingFactory] = {
    "none": lambda inputs, outputs, stride, affine, track: Zero(stride, outputs),
    "skip_connect": _resizing_skip,
    "nor_conv_1x1": _resizing(1),
    "nor_conv_3x3": _resizing(3),
}
"""Those that can change the number of channels (NATS-Bench, TransNAS-Bench-101): (channels that
enter, that leave, stride, affine, track running statistics) → module."""


def make_operation(
    name: str, inputs: int, outputs: int, stride: int, affine: bool, track: bool
) -> nn.Module:
    """The operation between maps of ``inputs`` and ``outputs`` channels.

    Raises ValueError where they differ and the operation cannot change them.
    """
    if inputs == outputs:
        return OPERATIONS[name](inputs, stride, affine, track)
    if name not in RESIZING:
        raise ValueError(
            f"{name} cannot change the number of channels, from {inputs} to {outputs}; "
            f"{', '.join(RESIZING)} can"
        )
    return RESIZING[name](inputs, outputs, stride, affine, track)


class ResidualBlock(nn.Module):
    """NAS-Bench-201's block between stages: two 3x3 convolutions, the first of stride 2."""

    def __init__(self, inputs: int, outputs: int, affine: bool = True, track: bool = True) -> None:
        super().__init__()
        self.conv_a = ReLUConvNorm(inputs, outputs, 3, 2, affine, track)
        self.conv_b = ReLUConvNorm(outputs, outputs, 3, 1, affine, track)
        pool = nn.AvgPool2d(2, 2, ceil_mode=True)  # odd sizes as the convolutions have them
        self.shortcut = nn.Sequential(pool, Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = self.shortcut(x) + self.conv_b(self.conv_a(x))
        return y


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Zero each sample's map with ``probability`` and scale the others to keep the mean."""
    drawn = torch.rand(parallel.world() * len(x), 1, 1, 1, device=x.device)
    keep = parallel.own(drawn) >= probability
    return x * (keep / (1.0 - probability)).to(x.dtype)
