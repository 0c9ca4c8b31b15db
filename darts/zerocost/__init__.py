"""Scores of networks at initialisation, one file each: (network, images) → a number, more is
better.

`network` is fresh from `build_network`; `images` are normalised, float32 [batch, C, H, W].
"""

from collections.abc import Callable

from torch import Tensor, nn

from darts.networks.size import multiply_adds, parameters
from darts.zerocost.jacob_cov import jacob_cov
from darts.zerocost.naswot import naswot
from darts.zerocost.swap import swap
from darts.zerocost.synflow import synflow

Score = Callable[[nn.Module, Tensor], float]

SCORES: dict[str, Score] = {
    "params": parameters,
    "macs": multiply_adds,
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "naswot": naswot,
    "swap": swap,
}
"""Name on the command line → score."""

__all__ = [
    "SCORES",
    "Score",
    "jacob_cov",
    "multiply_adds",
    "naswot",
    "parameters",
    "swap",
    "synflow",
]
