"""NASWOT: log |K| of the images' activation patterns, K counting the ReLUs on which two agree.

Mellor et al., "Neural Architecture Search without Training" (ICML 2021), summed over all
ReLUs of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from darts.zerocost.patterns import activation_patterns


def naswot(network: nn.Module, images: Tensor) -> float:
    """The score; -inf where two images have one pattern."""
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    for pattern in activation_patterns(network, images):
        signs = pattern.float() * 2 - 1  # a product is 1 where two agree and -1 elsewhere
        kernel += ((signs @ signs.T + signs.shape[1]) / 2).double()
    return float(torch.linalg.slogdet(kernel).logabsdet)
