"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module, images: Tensor) -> float:
    """Number of parameters; `images` are not looked at."""
    return float(sum(p.numel() for p in network.parameters()))


def multiply_adds(network: nn.Module, images: Tensor) -> float:
    """Of the first image's forward pass (the field's "FLOPs"); leaves the network in eval mode."""
    counter = FlopCounterMode(display=False)
    network.eval()
    with counter:
        network(images[:1])
    return float(counter.get_total_flops() // 2)
