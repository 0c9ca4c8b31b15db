"""The stand-alone network of a genotype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from darts.networks.genotype import Choice, Genotype
from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import OPERATIONS, FactorizedReduce, ReLUConvNorm, drop_path
from darts.networks.skeleton import (
    Call,
    Place,
    StackedSkeleton,
    TwoInputSkeleton,
    with_maps,
)


class DiscreteCell(nn.Module):
    """A NAS-Bench-201 cell: each node is the sum of its incoming edges, the last is the output."""

    name = "cell"
    """Its cell type."""

    def __init__(self, choices: Sequence[Choice], channels: int) -> None:
        super().__init__()
        self.choices = tuple(choices)
        self.operations = nn.ModuleList(
            OPERATIONS[c.operation](channels, 1, True, True) for c in choices
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        nodes = {0: x}
        for choice, operation in zip(self.choices, self.operations, strict=True):
            y = operation(nodes[choice.source])
            nodes[choice.target] = nodes[choice.target] + y if choice.target in nodes else y
        return nodes[max(nodes)]


class DiscreteTwoInputCell(nn.Module):
    """A cell of the DARTS space: two inputs, the inner nodes concatenated."""

    def __init__(self, choices: Sequence[Choice], place: Place) -> None:
        super().__init__()
        self.name = place.name
        older, old = place.inputs
        c = place.channels
        self.preprocess0: nn.Module = (
            FactorizedReduce(older, c, True, True)
            if place.after_reduction
            else ReLUConvNorm(older, c, 1, 1, True, True)
        )
        self.preprocess1 = ReLUConvNorm(old, c, 1, 1, True, True)
        self.choices = tuple(choices)
        self.operations = nn.ModuleList(
            OPERATIONS[choice.operation](
                c, 2 if place.name == "reduce" and choice.source < 2 else 1, True, True
            )
            for choice in choices
        )
        self.drop_path = 0.0

    def forward(self, older: Tensor, old: Tensor) -> Tensor:  # noqa: D102
        nodes = {0: self.preprocess0(older), 1: self.preprocess1(old)}
        for choice, operation in zip(self.choices, self.operations, strict=True):
            y = operation(nodes[choice.source])
            if self.training and self.drop_path > 0.0 and not isinstance(operation, nn.Identity):
                y = drop_path(y, self.drop_path)
            nodes[choice.target] = nodes[choice.target] + y if choice.target in nodes else y
        return torch.cat([nodes[n] for n in sorted(nodes)[2:]], dim=1)


class AuxiliaryHead(nn.Sequential):
    """DARTS's auxiliary classifier, on maps of 8x8 (CIFAR) or 14x14 (ImageNet)."""

    def __init__(self, channels: int, classes: int, stride: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            BatchNorm2d(768),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(768, classes),
        )


class TwoInputNetwork(TwoInputSkeleton):
    """The evaluation network of the DARTS space.

    While training with an auxiliary head, ``forward`` returns (logits, auxiliary logits);
    otherwise logits alone. ``drop_path``: probability of dropping an operation's output for a
    sample while training; set it each epoch.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int,
        cells: int,
        classes: int,
        auxiliary: bool,
        large: bool,
        colours: int,
    ) -> None:
        super().__init__(
            channels,
            cells,
            classes,
            lambda place: DiscreteTwoInputCell(genotype.cell(place.name), place),
            large=large,
            colours=colours,
        )
        position = self.reductions[1]
        self.auxiliary_position = position
        width = 4 * channels * (4 if self.reductions[0] != position else 2)
        self.auxiliary = (
            AuxiliaryHead(width, classes, stride=2 if large else 3) if auxiliary else None
        )

    @property
    def drop_path(self) -> float:
        """Probability of dropping an operation's output for a sample."""
        return next(c.drop_path for c in self.cells if isinstance(c, DiscreteTwoInputCell))

    @drop_path.setter
    def drop_path(self, probability: float) -> None:
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"drop_path={probability} must be in [0, 1)")
        for cell in self.cells:
            assert isinstance(cell, DiscreteTwoInputCell)
            cell.drop_path = probability

    def forward(  # type: ignore[override]  # the head's logits are this network's alone
        self, images: Tensor, call: Call = with_maps
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, [batch, classes], and the auxiliary ones while training with that head."""
        states = self.states(images, call)
        logits: Tensor = self.classifier(states[-1].mean((2, 3)))
        if self.auxiliary is None or not self.training:
            return logits
        return logits, self.auxiliary(states[self.auxiliary_position])


def build_network(
    genotype: Genotype | str,
    *,
    channels: int,
    cells: int,
    classes: int,
    auxiliary: bool = False,
    large: bool = False,
    colours: int = 3,
) -> nn.Module:
    """The stand-alone network of ``genotype``, to be trained from scratch.

    ``cells``: per stage for NAS-Bench-201 (5 in the benchmark: 17 cells with the residual blocks),
    in all for the DARTS spaces (20 for CIFAR, 14 for ImageNet). ``auxiliary``: DARTS's auxiliary
    head; see `TwoInputNetwork` for what the network then returns. ``large``: for images of
    ImageNet's size. Both are for genotypes of the DARTS spaces. ``colours``: of
    the images. Raises ValueError on a malformed genotype or a size below 1.
    """
    if isinstance(genotype, str):
        genotype = Genotype.parse(genotype)
    sizes = {"channels": channels, "cells": cells, "classes": classes, "colours": colours}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if genotype.skeleton == "darts":
        return TwoInputNetwork(genotype, channels, cells, classes, auxiliary, large, colours)
    for name, asked in (("auxiliary", auxiliary), ("large", large)):
        if asked:
            raise ValueError(f"{name}=True is for genotypes of the DARTS spaces only")
    choices = genotype.cell("cell")
    return StackedSkeleton(
        channels, cells, classes, lambda place: DiscreteCell(choices, place.channels), colours
    )
