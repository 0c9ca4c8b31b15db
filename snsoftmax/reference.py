"""The operators in plain PyTorch: slow, readable, and the oracles of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional


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
    h: Tensor = torch.special.entr(p).sum(dim)
    return h


def jacobian_vector_product(
    logits: Tensor, grad: Tensor, temperature: float | Tensor, dim: int
) -> Tensor:
    """J_t g / t = p ∘ (g − <p, g>) / t with p = softmax(A/t): Eq. 6."""
    p = torch.softmax(logits / temperature, dim)
    return p * (grad - (p * grad).sum(dim, keepdim=True)) / temperature


def mixture(
    normalized: Sequence[Tensor],
    plain: Sequence[Tensor],
    weights: Tensor,
    *,
    running_mean: Sequence[Tensor] | None = None,
    running_var: Sequence[Tensor] | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `snsoftmax.mixture`, by `torch.nn.functional.batch_norm`, map by map.

    Takes maps of any floating dtype and computes in it; ``weights`` may have another.
    """
    maps = [
        functional.batch_norm(
            y,
            None if running_mean is None else running_mean[k],
            None if running_var is None else running_var[k],
            training=training,
            momentum=momentum,
            eps=eps,
        )
        for k, y in enumerate(normalized)
    ]
    maps += plain
    return torch.stack([w * m for w, m in zip(weights, maps, strict=True)]).sum(0).to(maps[0].dtype)


def rectify_average(x: Tensor) -> tuple[Tensor, Tensor]:
    """The ReLU and the 3x3 average of ``x``, whose padding does not count."""
    return functional.relu(x), functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def convolve(x: Tensor, weights: Sequence[Tensor], stride: int = 1) -> list[Tensor]:
    """``x`` convolved with each of ``weights``, [K, C, k, k] with odd k, at its size or strided."""
    return [functional.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2) for w in weights]


def node_convolve(x: Tensor, three: Tensor, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `snsoftmax.node_convolve.node_convolve` where every edge is live."""
    maps = torch.cat(convolve(functional.relu(x), [w for w in (three, one) if len(w)]), dim=1)
    y = maps.unflatten(1, (-1, x.shape[1]))
    mean = y.mean((0, 3, 4))
    squares = (y - mean[..., None, None]).square().sum((0, 3, 4))
    return *maps.split([len(three), len(one)], dim=1), torch.stack((mean, squares), dim=1)


def depthwise(
    x: Tensor,
    weights: Sequence[Tensor],
    stride: int,
    dilations: Sequence[int],
    together: Sequence[int] | None = None,
) -> list[Tensor]:
    """Every channel of ``x``, [N, C, H, W], convolved with its filters of each of ``weights``.

    A weight, [m·C, 1, k, k], holds those of m convolutions one after the other; or the weights'
    lengths are of parts of ``x``'s channels, one after the other, which each has for itself. One
    map for each weight, or for as many together as ``together`` says.
    """
    apart = len(weights) > 1 and sum(map(len, weights)) == x.shape[1]
    read = x.split([len(w) for w in weights], 1) if apart else [x] * len(weights)
    maps = []
    for w, part, dilation in zip(weights, read, dilations, strict=True):
        # PyTorch would keep the results of a channel together, not those of a convolution.
        several = len(w) // part.shape[1]
        wide = torch.cat([part] * several, dim=1) if several > 1 else part
        padding = dilation * (w.shape[-1] // 2)
        w = w.to(x.dtype)
        maps.append(functional.conv2d(wide, w, None, stride, padding, dilation, groups=len(w)))
    if together is None:
        return maps
    found = iter(maps)
    groups = [list(islice(found, count)) for count in together]
    return [torch.cat(group, dim=1) if len(group) > 1 else group[0] for group in groups]
