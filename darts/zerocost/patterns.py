"""Which ReLUs each image switches on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def activation_patterns(network: nn.Module, images: Tensor) -> list[Tensor]:
    """One forward pass with the batch's statistics in batch norms.

    Returns:
        For each call of a `nn.ReLU` module, in order, whether its input is positive: bool [batch,
        units].
    """
    patterns: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        patterns.append(output.detach().flatten(1) > 0)

    handles = [
        module.register_forward_hook(note)
        for module in network.modules()
        if isinstance(module, nn.ReLU)
    ]
    network.train()
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return patterns
