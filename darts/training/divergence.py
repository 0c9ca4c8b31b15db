"""Stopping a training whose numbers are no longer numbers, before they reach a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from darts.devices.reading import read
from darts.errors import UserError


class Diverged(UserError):
    """Losses or weights are no longer numbers."""


def check_finite(
    losses: Tensor,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    epoch: int,
    advice: str,
) -> Tensor:
    """Stop a training that has diverged. Reads the device once.

    Args:
        losses: what each step of the running epoch gave, [steps, quantities]; the first quantity
            is the training loss.
        tensors: name and tensor of whatever the training moves, in the order to look through.
        epoch: the running epoch, from 0.
        advice: what to do about it.

    Returns:
        `losses` on the CPU.

    Raises:
        Diverged: a loss or a tensor is NaN or infinite; names epoch, step and tensor.
    """
    named = list(tensors)
    flags = torch.stack([tensor.isfinite().all() for _, tensor in named])
    losses, flags = read([losses, flags])
    wrong = (~losses[:, 0].isfinite()).nonzero().flatten().tolist()
    if flags.all() and not wrong:
        return losses
    step = wrong[0] + 1 if wrong else len(losses)
    clauses = [f"training diverged at step {step} of epoch {epoch + 1}"]
    if wrong:
        clauses.append(f"the training loss is {float(losses[wrong[0], 0])}")
    if not flags.all():
        clauses.append(f"{named[flags.tolist().index(False)][0]} is not finite")
    clauses.append(advice)
    raise Diverged("; ".join(clauses) + ".")
