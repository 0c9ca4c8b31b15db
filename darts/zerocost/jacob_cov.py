"""Jacobian covariance: how differently a network moves with each image.

Mellor et al., "Neural Architecture Search without Training", first version (arXiv 2006.04647v1):
with v the eigenvalues of the correlation matrix of the images' gradients,
-Σ log(v + k) + 1 / (v + k), k = 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

K = 1e-5
"""Keeps the logarithm finite."""


def jacob_cov(network: nn.Module, images: Tensor) -> float:
    """The score; batch norms use the batch's statistics.

    Returns:
        -inf where some image's gradient is constant, as in a cell without a path to its output.
    """
    network.train()
    x = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sum(), x, allow_unused=True)
    if gradient is None:
        return -torch.inf
    rows = gradient.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        return -torch.inf
    rows = rows / norms
    # Rounding may leave the least eigenvalues a little below 0.
    values = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0)
    return -float((torch.log(values + K) + 1 / (values + K)).sum())
