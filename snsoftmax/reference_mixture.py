"""The mixture written plainly: slow, readable, differentiable by autograd to any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


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
    """As :func:`snsoftmax.mixture`, by :func:`torch.nn.functional.batch_norm`, map by map.

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
