"""Synaptic flow: Σ |θ · ∂R/∂θ|, R the sum of the outputs of the net of |θ| on an image of ones.

Tanaka et al., NeurIPS 2020; as a score of architectures Abdelfattah et al., ICLR 2021.
As in zero-cost-nas and NASLib, batch norms are left out, and weights of convolutions and linear
layers count.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from darts.networks.normalization import BatchNorm2d


def synflow(network: nn.Module, images: Tensor) -> float:
    """The score; of `images` the shape alone matters. The network stays as it is.

    In float64, since products of hundreds of weights leave float32.
    """
    net = copy.deepcopy(network).double()
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, (BatchNorm2d, nn.BatchNorm2d)):
                setattr(module, name, nn.Identity())
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64, device=images.device)
    weights = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    gradients = torch.autograd.grad(net(ones).sum(), weights, allow_unused=True)
    flows = [(w * g).sum() for w, g in zip(weights, gradients, strict=True) if g is not None]
    return float(torch.stack(flows).sum().detach())
