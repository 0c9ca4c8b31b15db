"""SWAP: how many different sample-wise activation patterns the units of a network have.

Peng et al., "SWAP-NAS" (ICLR 2024), without its regularisation by size:
the pattern of a unit says for which images of the batch it is on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from darts.errors import UserError
from darts.zerocost.patterns import activation_patterns

LARGEST = 63
"""Images whose on and off fit into one integer."""


def swap(network: nn.Module, images: Tensor) -> float:
    """The number of different patterns, at most 2 ** batch.

    Raises:
        UserError: there are more than 63 images.
    """
    if len(images) > LARGEST:
        raise UserError(f"images: swap takes a batch of at most {LARGEST}, not {len(images)}.")
    places = 2 ** torch.arange(len(images), device=images.device)
    patterns = activation_patterns(network, images)
    numbers = [(pattern * places[:, None]).sum(0).unique() for pattern in patterns]
    return float(len(torch.cat(numbers).unique())) if numbers else 0.0
