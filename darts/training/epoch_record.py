"""What the log says of an epoch of a search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from darts.benchmark.nb201 import Table
from darts.budgets.budget import Budget
from darts.devices.reading import read
from darts.methods import Method


def epoch_record(
    epoch: int,
    method: Method,
    losses: Tensor,
    size: float,
    *,
    measured: Callable[..., Tensor],
    budget: Budget | None = None,
    table: Table | None = None,
) -> dict[str, Any]:
    """The record of an epoch that is over.

    The device is read twice: for α, which says what to evaluate, and for what that gave.

    Args:
        epoch: which, from 0.
        method: α, temperature and gradient norms.
        losses: [steps, 4] on the CPU, as from `Search.step`.
        size: images of the mean batch.
        measured: `HeldOut.measured` of the supernet.
        budget: of the search, if there is one.
        table: NAS-Bench-201's answers, if there are any.
    """
    weight_loss, weight_correct, arch_loss, arch_correct = losses.double().mean(0).tolist()
    scores = method.scores()
    entropy = torch.cat(list(method.entropies().values())).mean()
    temperature, entropy, norms, *rows = read(
        [method.temperature, entropy, method.norm_sums, *scores.values()]
    )
    scores = dict(zip(scores, rows, strict=True))
    found = method.space.derive(scores)
    pruned = {c: beta.to(method.device) for c, beta in method.space.discrete(found).items()}
    outcomes = [measured(pruned)]
    if (beta := method.discretised()) is not None:
        outcomes.append(measured(beta, running_statistics=True))
    accuracies = [100 * share for _, share in torch.stack(outcomes).tolist()]
    genotype = str(found)
    record = {
        "epoch": epoch,
        "temperature": float(temperature),
        "entropy": float(entropy),
        "weight_loss": weight_loss,
        "weight_accuracy": 100 * weight_correct / size,
        "discrete_accuracy": accuracies[0],
        "genotype": genotype,
        "weights": {cell: beta.tolist() for cell, beta in scores.items()},
    }
    if not math.isnan(arch_loss):
        record |= {"arch_loss": arch_loss, "arch_accuracy": 100 * arch_correct / size}
        record["gradient_norms"] = method.gradient_norms(norms)
    if beta is not None:
        record["running_accuracy"] = accuracies[1]
    if budget:
        record["budget"] = budget.record(found)
    if table:
        record["nb201"] = table[genotype].test
    return record
