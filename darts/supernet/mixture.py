"""The weighted sum at a node: out = Σ_k w_k·batchnorm(y_k) + Σ_l w_l·x_l."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from darts.supernet.branches import EPS, MOMENTUM


class Normalized(NamedTuple):
    """A map that is batch-normalised, with its running statistics (None: not tracked)."""

    map: Tensor
    mean: Tensor | None
    var: Tensor | None


def mixture(
    normalized: Sequence[Normalized], plain: Sequence[Tensor], weights: Tensor, training: bool
) -> Tensor:
    """Sum of ``normalized`` maps and ``plain`` maps, weighted by ``weights`` in that order."""
    terms = [
        F.batch_norm(y, mean, var, None, None, training or mean is None, MOMENTUM, EPS)
        for y, mean, var in normalized
    ]
    out: Tensor | None = None
    for w, x in zip(weights.unbind(), [*terms, *plain], strict=True):
        out = w.to(x.dtype) * x if out is None else out + w.to(x.dtype) * x
    assert out is not None
    return out
