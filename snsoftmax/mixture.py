"""The mixture of a supernet node's incoming operations, fused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
    """Return ``sum_k weights[k] batch_norm(normalized[k]) + sum_l weights[K + l] plain[l]``.

    ``batch_norm`` has no affine parameters, so with the β of a node's incoming edges as weights
    this is what the node of a continuously relaxed cell (Eq. 1) computes from its candidate
    operations' outputs. One pass takes the statistics of all maps and one combines them; backward
    is one pass of sums and one that writes every gradient. Neither the normalised maps nor their
    products with the weights are ever stored.

    Derivatives of any order, forward mode and ``torch.func.grad`` go through a composition of
    ATen operators with the same value. ``torch.compile`` traces through the operator.

    Args:
        normalized: K maps ``[N, C, H, W]`` to be normalised over N, H and W.
        plain: L maps of the same shape that are added as they are. ``1 <= K + L <= 64``.
        weights: ``[K + L]``, those of ``normalized`` first; float32, or float64 for float64 maps.
        running_mean: per normalised map its ``[C]`` running mean, of the dtype of ``weights``;
            ``None`` where statistics are not tracked; in training a tensor without elements where
            those of one map are not. Updated in place in training.
        running_var: as ``running_mean``; updated with the unbiased variance, like
            `torch.nn.BatchNorm2d`.
        training: normalise by the batch's statistics; otherwise by the running ones.
        momentum: share of the batch's statistics in the updated running ones.
        eps: added to the variances.

    Maps are float32, float64 or bfloat16, all of one dtype; statistics and sums of bfloat16 maps
    are float32 or better. Tensors in ``torch.channels_last`` format and channel slices of such
    tensors (``t[:, 16:32]``, ``t.split(16, 1)``) are read in place; other layouts are copied first.

    Returns:
        ``[N, C, H, W]`` in the maps' dtype, channels_last.

    Raises:
        ValueError: a shape, a device or a number of tensors is not as above, or batch statistics
            are asked of a single value a channel.
        TypeError: a dtype is not as above.
    """
    out, _, _ = torch.ops.snsoftmax.mixture.default(
        normalized, plain, weights, running_mean or [], running_var or [], training, momentum, eps
    )
    assert isinstance(out, Tensor)
    return out
