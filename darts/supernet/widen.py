"""Carry weights into a supernet whose operations have more channels, as progressive DrNAS does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Growth = dict[str, tuple[Tensor, ...]]
"""Conventional name → for each dimension, which old index every new index copies."""


def growth(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], generator: torch.Generator
) -> Growth:
    """Draw which old channels the additional ones copy (Net2Wider without its rescaling, as DrNAS).

    Args:
        old, new: `Supernet.conventional_views()` of the two networks.
        generator: on the CPU. An operation's convolution and batch-norm statistics share the choice
            of output channels.
    """
    outputs: dict[tuple[str, int, int], Tensor] = {}
    plan: Growth = {}
    for name, target in new.items():
        operation = ".".join(name.split(".")[:6])
        indices = []
        for dimension, (before, after) in enumerate(
            zip(old[name].shape, target.shape, strict=True)
        ):
            drawn = torch.randint(before, (after - before,), generator=generator)
            index = torch.cat([torch.arange(before), drawn])
            if dimension == 0:
                index = outputs.setdefault((operation, before, after), index)
            indices.append(index.to(target.device))
        plan[name] = tuple(indices)
    return plan


@torch.no_grad()
def widen(old: Mapping[str, Tensor], new: Mapping[str, Tensor], plan: Growth) -> None:
    """Write `old` into `new` as `plan` says, in place; parts of equal shape are copied."""
    for name, target in new.items():
        source = old[name]
        for dimension, index in enumerate(plan[name]):
            if source.shape[dimension] != target.shape[dimension]:
                source = source.index_select(dimension, index)
        target.copy_(source)
