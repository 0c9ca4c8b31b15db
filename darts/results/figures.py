"""Pictures of a search: trajectories, β over time, and the found cell as a graph.

`save_run` makes the picture that each run folder gets. The `draw_*` functions fill given axes, so
that the report and papers compose them; the file's suffix decides between PNG, SVG and PDF.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from darts.benchmark.nb201 import PUBLISHED
from darts.files import atomic_write
from darts.results.run_folder import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from darts.networks.genotype import Choice, Genotype

INK = "#24292f"
MUTED = "#6e7781"
PALETTE = ("#0b62a4", "#d1620a", "#2b8a5a", "#9b3fa5", "#b8860b", "#c2334d", "#4b5d67", "#168aad")

APPEARANCE: dict[str, tuple[str, str]] = {
    "none": ("none", "#a8b0b8"),
    "skip_connect": ("skip", "#d1620a"),
    "nor_conv_1x1": ("conv 1×1", "#4aa3df"),
    "nor_conv_3x3": ("conv 3×3", "#0b4f8a"),
    "avg_pool_3x3": ("avg pool", "#2b8a5a"),
    "max_pool_3x3": ("max pool", "#6aa84f"),
    "sep_conv_3x3": ("sep 3×3", "#2f7fc1"),
    "sep_conv_5x5": ("sep 5×5", "#0b3d70"),
    "dil_conv_3x3": ("dil 3×3", "#a869c0"),
    "dil_conv_5x5": ("dil 5×5", "#6d2f86"),
    "noise": ("noise", "#8c6d46"),
}
"""Label and colour of each operation, the same in every picture."""

_BOWS = {1: 0.0, 2: 0.3, 3: 0.36}
"""Bow of an arrow between nodes of a row, by how many places it spans."""

Quantity = Literal[
    "temperature", "entropy", "loss", "accuracy", "discrete_accuracy", "nb201", "gradient"
]

_TITLES: dict[Quantity, str] = {
    "temperature": "Temperature t",
    "entropy": "Mean entropy of β (nats)",
    "loss": "Supernet loss",
    "accuracy": "Supernet accuracy (%)",
    "discrete_accuracy": "Discretised accuracy (%)",
    "nb201": "NAS-Bench-201, CIFAR-10 test (%)",
    "gradient": "Norm of dL/dα",
}


def save_run(
    path: str | os.PathLike[str],
    records: Sequence[EpochRecord],
    genotype: Genotype,
    *,
    title: str,
) -> Path:
    """Write the picture of one run: four trajectories above the cells it found.

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
    graphs = below.subplots(1, len(genotype.cells), squeeze=False)
    for axes, (name, choices) in zip(graphs.flat, genotype.cells, strict=True):
        draw_cell(axes, choices, title="Found cell" if name == "cell" else f"Found {name} cell")
    return save(figure, path)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure whole or not at all, in the format of the path's suffix."""
    target = Path(path)
    with atomic_write(target) as file:
        figure.savefig(file, format=target.suffix.removeprefix("."), dpi=150, facecolor="white")
    return target


def prepare(axes: Axes, title: str, x_label: str) -> None:
    """Title, label and frame as every picture here has them."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x_label, fontsize=9, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c4cad0")
    axes.grid(axis="y", color="#e7ecf1", linewidth=0.8)
    axes.set_axisbelow(True)


def draw_trajectory(
    axes: Axes, runs: Mapping[str, Sequence[EpochRecord]], quantity: Quantity
) -> None:
    """Draw one quantity over the epochs of one or more runs (Figs. 4A and 4B of the paper).

    Args:
        axes: where to draw.
        runs: name (legend entry) to log; one run may be nameless.
        quantity: "temperature", "entropy", "loss" or "accuracy" (of the supernet on both halves; on
            the architecture's alone where runs are compared), "discrete_accuracy" (of the derived
            architecture inside the supernet), "nb201" (looked-up CIFAR-10 test accuracy of each
            epoch's architecture, with the published optimum and collapse), or "gradient" (mean
            norm of dL/dα over the edges).
    """
    prepare(axes, _TITLES[quantity], "epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for place, (name, records) in enumerate(runs.items()):
        colour = PALETTE[place % len(PALETTE)]
        if quantity in ("loss", "accuracy"):
            if len(runs) == 1:
                _line(axes, records, f"weight_{quantity}", colour, "weights' half")
                _line(axes, records, f"arch_{quantity}", colour, "architecture's half", "--")
            else:
                _line(axes, records, f"arch_{quantity}", colour, name)
        elif quantity == "nb201":
            _line(axes, records, "nb201", colour, name or "derived architecture")
        elif quantity == "gradient":
            _line(axes, records, "gradient_norms", colour, name)
            epoch = _saturation(records)
            if epoch is not None:
                axes.axvline(epoch + 1, color=colour, linewidth=1, linestyle=":")
        else:
            _line(axes, records, quantity, colour, name)
            if len(runs) == 1:
                last = records[-1]
                _annotate_end(axes, last["epoch"] + 1, value_of(last, quantity), colour)
    if quantity in ("temperature", "gradient"):
        values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
        positive = values[values > 0]
        if len(positive) and positive.max() > 10 * positive.min():
            axes.set_yscale("log")
    if quantity == "entropy":
        axes.set_ylim(bottom=0)
        for value in sorted({_uniform_entropy(records) for records in runs.values()} - {0.0}):
            _reference_line(axes, value, "uniform β")
    if quantity == "nb201":
        for name in ("optimum", "all-skip collapse"):
            _reference_line(axes, PUBLISHED[name]["cifar10"], name)
        axes.set_ylim(min(50.0, axes.get_ylim()[0]), 97.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9 if len(runs) < 4 else 7.5, labelcolor=INK)


def _line(
    axes: Axes,
    records: Sequence[EpochRecord],
    field: str,
    colour: str,
    label: str,
    style: str = "-",
) -> None:
    """One field of a log over the epochs, from 1; epochs that lack it are left out."""
    known = [record for record in records if field in record]
    axes.plot(
        [record["epoch"] + 1 for record in known],
        [value_of(record, field) for record in known],
        style,
        color=colour,
        label=label or None,
        linewidth=1.8,
        drawstyle="steps-mid" if field == "nb201" else "default",
    )


def value_of(record: EpochRecord, field: str) -> float:
    """A field of a record as one number."""
    if field == "nb201":
        return record["nb201"]["cifar10"]
    if field == "gradient_norms":
        return float(np.mean(np.concatenate(list(record["gradient_norms"].values()))))
    return float(cast("dict[str, float]", record)[field])


def _saturation(records: Sequence[EpochRecord]) -> int | None:
    """The first epoch in which β's mean entropy is under a tenth of a uniform β's."""
    limit = _uniform_entropy(records) / 10
    return next((record["epoch"] for record in records if record["entropy"] < limit), None)


def draw_weights(
    axes: Axes, records: Sequence[EpochRecord], cell: str, edge: int, operations: Sequence[str]
) -> None:
    """Draw β of one edge over the epochs as a heat map, one row an operation.

    Args:
        axes: where to draw.
        records: a log with `weights`.
        cell: cell type.
        edge: index of the edge.
        operations: names of the edge's candidates.
    """
    values = np.array([record["weights"][cell][edge] for record in records]).T
    first = records[0]["epoch"] + 0.5
    extent = (first, first + len(records), len(operations) - 0.5, -0.5)
    axes.imshow(values, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=extent)
    labels = [APPEARANCE.get(name, (name, INK))[0] for name in operations]
    axes.set_yticks(range(len(operations)), labels, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.tick_params(length=0, colors=MUTED)
    axes.spines[:].set_visible(False)


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
        axes.text(
            x,
            y,
            name,
            ha="center",
            va="center",
            fontsize=10,
            color="white" if ends else INK,
            zorder=5,
            bbox={
                "boxstyle": "round,pad=0.38",
                "facecolor": INK if ends else "white",
                "edgecolor": INK,
                "linewidth": 0.8,
            },
        )
    axes.set_xlim(-0.6, max(x for x, _ in places.values()) + 0.6)
    axes.set_ylim((-0.9, 1.5) if inputs == 1 else (-1.95, 1.95))


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


def _annotate_end(axes: Axes, epoch: int, value: float, colour: str) -> None:
    axes.annotate(
        f"{value:.3g}",
        (epoch, value),
        xytext=(4, 6),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=colour,
        bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )


def _reference_line(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=MUTED, linewidth=1, linestyle=":")
    axes.annotate(
        f"{label} {value:.2f}",
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=MUTED,
    )


def _uniform_entropy(records: Sequence[EpochRecord]) -> float:
    """Mean entropy of uniform weights in nats; 0 where the log has no weights."""
    if not records or "weights" not in records[0]:
        return 0.0
    rows = [row for edges in records[0]["weights"].values() for row in edges]
    return round(sum(math.log(len(row)) for row in rows) / len(rows), 6)
