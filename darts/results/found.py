"""What a search found, as a graph of each cell or as a chain; and the picture of a whole run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from darts.networks.nb101 import to_graph
from darts.networks.table import SKELETONS
from darts.results.figures import APPEARANCE, INK, MUTED, Quantity, draw_trajectory, save
from darts.results.run_folder import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from darts.networks.genotype import Choice, Genotype
    from darts.networks.module_graph import ModuleGraph

UNUSED = "#d0d7de"
"""What does not lead from the input to the output."""
_BOWS = {1: 0.0, 2: 0.3, 3: 0.36}
"""Bow of an arrow between nodes of a row, by how many places it spans."""


def save_run(
    path: str | os.PathLike[str],
    records: Sequence[EpochRecord],
    genotype: Genotype,
    *,
    title: str,
) -> Path:
    """Write the picture of one run: four trajectories above what it found.

    The fourth is the looked-up accuracy where the log has it, else the loss.

    Args:
        path: `.png`, `.svg` or `.pdf`.
        records: the run's log; at least one epoch.
        genotype: what was found.
        title: one line above the picture.

    Returns:
        The path.
    """
    figure = Figure(figsize=(14, 7.4), layout="constrained")
    figure.suptitle(title, x=0.008, ha="left", fontsize=14, color=INK, fontweight="bold")
    above, below = figure.subfigures(2, 1, hspace=0.04, squeeze=False)[:, 0]
    fourth: Quantity = "nb201" if any("nb201" in record for record in records) else "loss"
    quantities: tuple[Quantity, ...] = ("temperature", "entropy", "accuracy", fourth)
    for axes, quantity in zip(above.subplots(1, 4), quantities, strict=True):
        draw_trajectory(axes, {"": records}, quantity)
    drawings = found(genotype)
    graphs = below.subplots(1, len(drawings), squeeze=False)
    for axes, draw in zip(graphs.flat, drawings.values(), strict=True):
        draw(axes)
    return save(figure, path)


def found(genotype: Genotype) -> dict[str, Callable[[Axes], None]]:
    """The drawings of an architecture by name: of each cell type, of a chain, or of a graph."""
    skeleton = SKELETONS[genotype.skeleton]
    if skeleton.nodes:
        graph = to_graph(genotype.cells)
        return {"cell": partial(draw_graph, graph=graph, title=f"Found cell {graph.digest()}")}
    if skeleton.chain:
        layers = sorted((c for _, choices in genotype.cells for c in choices), key=_source)
        return {"chain": partial(draw_chain, choices=layers, title="Found layers")}
    return {
        name: partial(
            draw_cell,
            choices=choices,
            title="Found cell" if name == "cell" else f"Found {name} cell",
        )
        for name, choices in genotype.cells
    }


def _source(choice: Choice) -> int:
    return choice.source


def draw_chain(axes: Axes, choices: Sequence[Choice], *, title: str) -> None:
    """Draw layers from left to right, each with its operation written upwards.

    Args:
        axes: where to draw.
        choices: (operation, source, target) of each layer, in order.
        title: above the chain.
    """
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.axis("off")
    axes.plot([-0.8, len(choices) - 0.2], [0.5, 0.5], color=MUTED, linewidth=1.2, zorder=0)
    for place, choice in enumerate(choices):
        label, colour = APPEARANCE.get(choice.operation, (choice.operation, INK))
        axes.bar(place, 1.0, width=0.8, color="white", edgecolor=colour, linewidth=1.6)
        axes.text(
            place, 0.5, label, rotation=90, ha="center", va="center", fontsize=8, color=colour
        )
    axes.set_xlim(-1, len(choices))
    axes.set_ylim(-0.1, 1.1)


def draw_graph(axes: Axes, graph: ModuleGraph, *, title: str) -> None:
    """Draw a cell whose nodes carry the operations, from left to right, and what they read.

    Args:
        axes: where to draw.
        graph: the cell; what does not lead to its output is drawn in grey.
        title: above the graph.
    """
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.axis("off")
    used = graph.used()
    for target in range(graph.last + 1):
        for source in graph.sources(target):
            colour = INK if {source, target} <= used else UNUSED
            side = 1 if source % 2 else -1
            bow = 0.0 if target - source == 1 else 0.28 * side
            _arrow(axes, (1.9 * source, 0.0), (1.9 * target, 0.0), bow, colour, width=1.4)
    for vertex, operation in enumerate(graph.operations):
        label, colour = APPEARANCE.get(operation, (operation, INK))
        ends = vertex in (0, graph.last)
        ink, face = ("white", INK) if ends else (colour if vertex in used else UNUSED, "white")
        _name(axes, (1.9 * vertex, 0.0), label, ink, face)
    axes.set_xlim(-0.9, 1.9 * graph.last + 0.9)
    axes.set_ylim(-2.2, 2.2)


def draw_cell(axes: Axes, choices: Sequence[Choice], *, title: str) -> None:
    """Draw a discrete cell: nodes from left to right, one labelled arrow for each chosen operation.

    Args:
        axes: where to draw.
        choices: (operation, source, target) of each edge.
        title: above the graph.
    """
    inputs = min(choice.target for choice in choices)
    last = max(choice.target for choice in choices)
    places = _places(inputs, last)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.axis("off")
    axes.set_aspect("equal")
    for choice in choices:
        _draw_choice(axes, places, choice, inputs)
    if inputs == 2:  # the cell's output is the concatenation of its inner nodes
        first, final = places[inputs], places[last]
        band = (first[0] - 0.32, -0.3), final[0] - first[0] + 0.64, 0.6
        axes.add_patch(FancyBboxPatch(*band, boxstyle="round,pad=0.06", color="#eef2f5", zorder=0))
        places[last + 1] = (final[0] + 1.25, 0.0)
        _arrow(axes, (final[0] + 0.3, 0.0), places[last + 1], 0.0, MUTED, width=1.2)
    for (node, (x, y)), name in zip(sorted(places.items()), _names(inputs, last), strict=True):
        ends = node < inputs or node == len(places) - 1
        _name(axes, (x, y), name, *(("white", INK) if ends else (INK, "white")))
    axes.set_xlim(-0.6, max(x for x, _ in places.values()) + 0.6)
    axes.set_ylim((-0.9, 1.5) if inputs == 1 else (-1.95, 1.95))


def _name(axes: Axes, place: tuple[float, float], name: str, ink: str, face: str) -> None:
    """Write a node's name where it is."""
    axes.text(
        *place,
        name,
        ha="center",
        va="center",
        fontsize=10,
        color=ink,
        zorder=5,
        bbox={
            "boxstyle": "round,pad=0.38",
            "facecolor": face,
            "edgecolor": INK,
            "linewidth": 0.8,
        },
    )


def _places(inputs: int, last: int) -> dict[int, tuple[float, float]]:
    """Inner nodes on a line; of two inputs, one above it and one below."""
    if inputs == 1:
        return {node: (1.9 * node, 0.0) for node in range(last + 1)}
    inner = {node: (1.5 * (node - 1), 0.0) for node in range(inputs, last + 1)}
    return {0: (0.0, 1.4), 1: (0.0, -1.4), **inner}


def _names(inputs: int, last: int) -> tuple[str, ...]:
    if inputs == 1:
        return ("input", *(str(node) for node in range(1, last)), "output")
    return ("k−2", "k−1", *(str(node - inputs) for node in range(inputs, last + 1)), "concat")


def _draw_choice(
    axes: Axes, places: dict[int, tuple[float, float]], choice: Choice, inputs: int
) -> None:
    label, colour = APPEARANCE.get(choice.operation, (choice.operation, INK))
    start, end = places[choice.source], places[choice.target]
    span = choice.target - choice.source
    if inputs == 2 and choice.source < inputs:
        # The farther the target, the farther out the arrow from an input runs.
        bow, share = 0.09 * (choice.target - inputs), 0.5 if choice.target == inputs else 0.62
        bow = -bow if choice.source == 0 else bow
    else:
        bow, share = _BOWS[min(span, 3)] * (1 if choice.source % 2 else -1), 0.5
    dashed = choice.operation == "none"
    _arrow(axes, start, end, bow, colour, width=1.2 if dashed else 2.2, dashed=dashed)
    # Matplotlib's arc3: a quadratic Bézier whose control point lies `bow` spans off the middle.
    control = (
        (start[0] + end[0]) / 2 + bow * (end[1] - start[1]),
        (start[1] + end[1]) / 2 - bow * (end[0] - start[0]),
    )
    x, y = (
        (1 - share) ** 2 * a + 2 * share * (1 - share) * c + share**2 * b
        for a, c, b in zip(start, control, end, strict=True)
    )
    axes.text(
        x,
        y,
        label,
        ha="center",
        va="center",
        fontsize=9,
        color=MUTED if dashed else colour,
        fontweight="normal" if dashed else "bold",
        zorder=4,
        bbox={"boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": "none"},
    )


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    bow: float,
    colour: str,
    *,
    width: float,
    dashed: bool = False,
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={bow}",
            mutation_scale=13,
            shrinkA=16,
            shrinkB=18,
            linewidth=width,
            linestyle="--" if dashed else "-",
            color=colour,
            zorder=2,
        )
    )
