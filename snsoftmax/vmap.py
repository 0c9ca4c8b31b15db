"""Batching rules: one call of a kernel for a whole `torch.vmap`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _front(x: Tensor | None, in_dim: int | None, batch: int) -> Tensor | None:
    """Move the batch dimension to the front, adding it where there was none."""
    if x is None:
        return None
    return x.expand(batch, *x.shape) if in_dim is None else x.movedim(in_dim, 0)


def _rows(temperature: Tensor | None, in_dim: int | None, logits_dims: int) -> Tensor | None:
    """Line a batch of temperatures up with logits of 1 + `logits_dims` dimensions."""
    if temperature is None or in_dim is None:
        return temperature
    moved = temperature.movedim(in_dim, 0)
    missing = logits_dims - (moved.dim() - 1)
    return moved.reshape(moved.shape[0], *[1] * missing, *moved.shape[1:])


def _batched(logits: Tensor, in_dim: int | None, dim: int, batch: int) -> tuple[Tensor, int, bool]:
    """Return the logits with the batch in front, `dim` in them, and whether they are numbers."""
    front = _front(logits, in_dim, batch)
    assert front is not None
    scalar = front.dim() == 1  # a batch of 0-d logits has no dimension to sum over
    if scalar:
        return front.unsqueeze(1), 1, True
    return front, dim + 1 if dim >= 0 else dim, False


def _sn_softmax(
    info: Any,
    in_dims: tuple[int | None, ...],
    logits: Tensor,
    temperature: Tensor,
    smooth: Tensor | None,
    scale: float | None,
    dim: int,
) -> tuple[Tensor, int]:
    a, dim, scalar = _batched(logits, in_dims[0], dim, info.batch_size)
    t = _rows(temperature, in_dims[1], a.dim() - 1)
    st = _rows(smooth, in_dims[2], a.dim() - 1)
    p = torch.ops.snsoftmax.sn_softmax(a, t, st, scale, dim)
    return (p.squeeze(1) if scalar else p), 0


def _sn_softmax_entropy(
    info: Any,
    in_dims: tuple[int | None, ...],
    logits: Tensor,
    temperature: Tensor,
    smooth: Tensor | None,
    scale: float | None,
    dim: int,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    a, dim, scalar = _batched(logits, in_dims[0], dim, info.batch_size)
    t = _rows(temperature, in_dims[1], a.dim() - 1)
    st = _rows(smooth, in_dims[2], a.dim() - 1)
    p, h = torch.ops.snsoftmax.sn_softmax_entropy(a, t, st, scale, dim)
    return (p.squeeze(1) if scalar else p, h), (0, 0)


def _sn_softmax_backward(
    info: Any,
    in_dims: tuple[int | None, ...],
    grad: Tensor | None,
    grad_entropy: Tensor | None,
    logits: Tensor,
    temperature: Tensor,
    smooth: Tensor | None,
    scale: float | None,
    dim: int,
) -> tuple[Tensor, int]:
    g = _front(grad, in_dims[0], info.batch_size)
    gh = _front(grad_entropy, in_dims[1], info.batch_size)
    a, dim, scalar = _batched(logits, in_dims[2], dim, info.batch_size)
    if scalar and g is not None:
        g = g.unsqueeze(1)
    t = _rows(temperature, in_dims[3], a.dim() - 1)
    st = _rows(smooth, in_dims[4], a.dim() - 1)
    out = torch.ops.snsoftmax.sn_softmax_backward(g, gh, a, t, st, scale, dim)
    return (out.squeeze(1) if scalar else out), 0


torch.library.register_vmap("snsoftmax::sn_softmax", _sn_softmax)
torch.library.register_vmap("snsoftmax::sn_softmax_entropy", _sn_softmax_entropy)
torch.library.register_vmap("snsoftmax::sn_softmax_backward", _sn_softmax_backward)
