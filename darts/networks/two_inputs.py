"""DARTS's skeleton: cells that are each fed by the two before them, and reductions."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import OPERATIONS, FactorizedReduce, ReLUConvNorm, drop_path
from darts.networks.table import (
    KEPT_EDGES,
    Call,
    Cells,
    Choice,
    Edge,
    MakeCell,
    NetworkSizes,
    Place,
    Skeleton,
    check_operations,
    enter,
    require,
    require_names,
    with_maps,
)


def small_stems(channels: int, colours: int) -> tuple[nn.Module, nn.Module]:
    """For images of 32x32: the first two cells share one input."""
    convolution = nn.Conv2d(colours, channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, BatchNorm2d(channels)), nn.Identity()


def large_stems(channels: int, colours: int) -> tuple[nn.Module, nn.Module]:
    """For images of 224x224: maps of 56x56 and 28x28."""
    first = nn.Sequential(
        nn.Conv2d(colours, channels // 2, 3, stride=2, padding=1, bias=False),
        BatchNorm2d(channels // 2),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        BatchNorm2d(channels),
    )
    second = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
        BatchNorm2d(channels),
    )
    return first, second


class TwoInputSkeleton(nn.Module):
    """DARTS: ``cells`` cells, each fed by the two before it; reductions at 1/3 and 2/3.

    ``large``: for images of ImageNet's size, two stems that shrink them to a fourth and an eighth.
    ``colours``: of the images.
    """

    def __init__(
        self,
        channels: int,
        cells: int,
        classes: int,
        make_cell: MakeCell,
        nodes: int = 4,
        large: bool = False,
        colours: int = 3,
    ) -> None:
        super().__init__()
        older = old = channels if large else 3 * channels
        self.stem, self.second_stem = (large_stems if large else small_stems)(old, colours)
        self.cells = nn.ModuleList()
        self.reductions = (cells // 3, 2 * cells // 3)
        after_reduction = large
        for i in range(cells):
            reduction = i in self.reductions
            channels *= 2 if reduction else 1
            name = "reduce" if reduction else "normal"
            self.cells.append(make_cell(Place(name, (older, old), channels, after_reduction)))
            after_reduction = reduction
            older, old = old, nodes * channels
        self.classifier = nn.Linear(old, classes)

    def states(self, images: Tensor, call: Call = with_maps) -> list[Tensor]:
        """The output map of each cell, in order."""
        older = self.stem(images)
        old = self.second_stem(older)
        outputs = []
        for cell in self.cells:
            older, old = old, call(cell, (older, old))
            outputs.append(old)
        return outputs

    def forward(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Logits, [batch, classes], of ``images``, [batch, colours, height, width]."""
        logits: Tensor = self.classifier(self.states(images, call)[-1].mean((2, 3)))
        return logits


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
        self.channels = c
        self.choices = tuple(choices)
        self.operations = nn.ModuleList(
            OPERATIONS[choice.operation](c, self.geometry(choice)[0], True, True)
            for choice in choices
        )
        self.drop_path = 0.0

    def geometry(self, choice: Choice) -> tuple[int, int]:
        """Stride of an operation, and the channels that leave it."""
        return 2 if self.name == "reduce" and choice.source < 2 else 1, self.channels

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
        cells: Mapping[str, Sequence[Choice]],
        sizes: NetworkSizes,
        auxiliary: bool,
        large: bool,
    ) -> None:
        channels, classes = sizes.channels, sizes.classes
        super().__init__(
            channels,
            sizes.cells,
            classes,
            lambda place: DiscreteTwoInputCell(cells[place.name], place),
            large=large,
            colours=sizes.colours,
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


@dataclass(frozen=True)
class TwoInputs(Skeleton):
    """The entry; its text is DARTS's tuple."""

    leaves_edges_out: ClassVar[bool] = True
    leading: ClassVar[tuple[str, ...]] = ("normal",)
    auxiliary_head: ClassVar[bool] = True
    large_images: ClassVar[bool] = True
    search_settings: ClassVar[Mapping[str, Any]] = {
        "supernet.cells": 8,
        "weights.nesterov": False,
        "weights.weight_decay": 3e-4,
        "arch.first": True,
    }
    short_settings: ClassVar[Mapping[str, Any]] = {"network.cells": 5}

    def check(self, cells: Mapping[str, Sequence[Edge]]) -> None:  # noqa: D102
        require_names(self, cells, ["normal", "reduce"])

    def body(self, sizes: NetworkSizes, make_cell: MakeCell) -> nn.Module:  # noqa: D102
        return TwoInputSkeleton(
            sizes.channels, sizes.cells, sizes.classes, make_cell, colours=sizes.colours
        )

    def network(  # noqa: D102
        self, cells: Cells, sizes: NetworkSizes, *, auxiliary: bool, large: bool
    ) -> nn.Module:
        return TwoInputNetwork(dict(cells), sizes, auxiliary, large)

    def write(self, cells: Cells) -> str:  # noqa: D102
        fields = []
        for name, choices in cells:
            pairs = [(operation, source) for operation, source, _ in choices]
            inner = sorted({choice.target for choice in choices})
            fields.append(f"{name}={pairs}, {name}_concat=range({inner[0]}, {inner[-1] + 1})")
        return f"Genotype({', '.join(fields)})"

    def reads(self, text: str) -> bool:  # noqa: D102
        return text.startswith("Genotype(")

    def read(self, text: str) -> Cells:  # noqa: D102
        try:
            call = ast.parse(text, mode="eval").body
            assert isinstance(call, ast.Call)
            fields = {k.arg: k.value for k in call.keywords}
            cells = []
            for name in ("normal", "reduce"):
                _check_concat(text, fields.get(f"{name}_concat"))
                choices = tuple(
                    Choice(str(operation), int(source), 2 + i // KEPT_EDGES)
                    for i, (operation, source) in enumerate(_literal(fields[name]))
                )
                require(text, len(choices) == 8, f"{name} must have 8 pairs (operation, source)")
                require(
                    text, all(0 <= c.source < c.target for c in choices), "has an unknown source"
                )
                check_operations(text, choices)
                cells.append((name, choices))
        except (SyntaxError, AssertionError, KeyError, TypeError) as error:
            raise ValueError(f"genotype {text!r} is not a DARTS Genotype(...) tuple") from error
        return tuple(cells)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise TypeError(str(error)) from error


def _check_concat(text: str, node: ast.expr | None) -> None:
    """Only cells that concatenate their four inner nodes are in the space."""
    if node is None:
        return
    values = (
        list(range(*(_literal(a) for a in node.args)))
        if isinstance(node, ast.Call)
        else list(_literal(node))
    )
    require(text, values == [2, 3, 4, 5], "must concatenate nodes 2 to 5")


enter(TwoInputs("darts"))
