"""The operator in plain PyTorch: slow, readable, and the oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor


def sn_softmax(
    logits: Tensor, temperature: float | Tensor, smooth_temperature: float | Tensor | None, dim: int
) -> Tensor:
    """Algorithm 1 by composition: softmax(A/t) in value, Eq. 7's two Jacobians in gradient.

    `smooth_temperature` is st itself, None for ordinary softmax.
    """
    p = torch.softmax(logits / temperature, dim)
    if smooth_temperature is None:
        return p
    q = torch.softmax(logits / smooth_temperature, dim)
    return p + (q - q.detach())


def entropy(p: Tensor, dim: int) -> Tensor:
    """H = −Σ p log p in nats (Eq. 13), with 0 log 0 = 0."""
    return torch.special.entr(p).sum(dim)


def jacobian_vector_product(
    logits: Tensor, grad: Tensor, temperature: float | Tensor, dim: int
) -> Tensor:
    """J_t g / t = p ∘ (g − <p, g>) / t with p = softmax(A/t): Eq. 6."""
    p = torch.softmax(logits / temperature, dim)
    return p * (grad - (p * grad).sum(dim, keepdim=True)) / temperature
