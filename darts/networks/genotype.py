"""Discrete architectures and their two official text formats."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from darts.networks.operations import OPERATIONS

KEPT_EDGES = 2
"""Incoming edges that a node of the DARTS space keeps."""


class Choice(NamedTuple):
    """One edge of a discrete architecture."""

    operation: str
    source: int
    target: int


@dataclass(frozen=True)
class Genotype:
    """The choices of each cell type, in the order of the official formats.

    ``skeleton`` is that of the space (``"nb201"`` or ``"darts"``). ``str()`` gives the official
    format, ``Genotype.parse`` reads it, also that of a space with other edges.
    """

    skeleton: str
    cells: tuple[tuple[str, tuple[Choice, ...]], ...]

    def cell(self, name: str) -> tuple[Choice, ...]:
        """The choices of the cell type ``name``."""
        return dict(self.cells)[name]

    def __str__(self) -> str:
        return _format_nb201(self) if self.skeleton == "nb201" else _format_darts(self)

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read an NB201 architecture string or a DARTS ``Genotype(...)`` tuple.

        Raises ValueError where ``text`` is neither.
        """
        text = text.strip()
        if text.startswith("|"):
            return _parse_nb201(text)
        if text.startswith("Genotype("):
            return _parse_darts(text)
        raise ValueError(
            f"genotype {text!r} must be an NB201 string like '|nor_conv_3x3~0|+...' "
            "or a DARTS tuple like 'Genotype(normal=[...], ...)'"
        )


def genotype_string(genotype: Genotype) -> str:
    """The official text of ``genotype``."""
    return str(genotype)


def _format_nb201(genotype: Genotype) -> str:
    nodes: dict[int, list[str]] = {}
    for operation, source, target in genotype.cell("cell"):
        nodes.setdefault(target, []).append(f"{operation}~{source}|")
    return "+".join("|" + "".join(parts) for _, parts in sorted(nodes.items()))


def _parse_nb201(text: str) -> Genotype:
    choices = []
    for target, node in enumerate(text.split("+"), start=1):
        if not re.fullmatch(r"\|(?:\w+~\d+\|)+", node):
            raise ValueError(f"genotype {text!r}: {node!r} is not of the form '|operation~source|'")
        edges = [part.split("~") for part in node.strip("|").split("|")]
        # In the official order, whatever the text's: the same edges are the same cell.
        for source, operation in sorted((int(source), operation) for operation, source in edges):
            choices.append(Choice(operation, source, target))
    _require(
        text, all(c.source < c.target for c in choices), "has an edge that leads to an earlier node"
    )
    _check_operations(text, choices)
    return Genotype("nb201", (("cell", tuple(choices)),))


def _format_darts(genotype: Genotype) -> str:
    fields = []
    for name, choices in genotype.cells:
        pairs = [(operation, source) for operation, source, _ in choices]
        inner = sorted({choice.target for choice in choices})
        fields.append(f"{name}={pairs}, {name}_concat=range({inner[0]}, {inner[-1] + 1})")
    return f"Genotype({', '.join(fields)})"


def _parse_darts(text: str) -> Genotype:
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
            _require(text, len(choices) == 8, f"{name} must have 8 pairs (operation, source)")
            _require(text, all(0 <= c.source < c.target for c in choices), "has an unknown source")
            _check_operations(text, choices)
            cells.append((name, choices))
    except (SyntaxError, AssertionError, KeyError, TypeError) as error:
        raise ValueError(f"genotype {text!r} is not a DARTS Genotype(...) tuple") from error
    return Genotype("darts", tuple(cells))


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
    _require(text, values == [2, 3, 4, 5], "must concatenate nodes 2 to 5")


def _check_operations(text: str, choices: Iterable[Choice]) -> None:
    for choice in choices:
        if choice.operation not in OPERATIONS:
            raise ValueError(
                f"genotype {text!r}: operation {choice.operation!r} is not one of "
                f"{', '.join(OPERATIONS)}"
            )


def _require(text: str, condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(f"genotype {text!r} {complaint}")
