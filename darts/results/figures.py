"""Pictures of a search: trajectories, and β over time.

The `draw_*` functions fill given axes, so that the report and papers compose them; a file's suffix
decides between PNG, SVG and PDF.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from darts.benchmark.nb201 import PUBLISHED
from darts.files import atomic_write
from darts.results.run_folder import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    "mb_conv_3x3_e3": ("3×3 ×3", "#7fb8e6"),
    "mb_conv_3x3_e6": ("3×3 ×6", "#2f7fc1"),
    "mb_conv_5x5_e3": ("5×5 ×3", "#7cc49b"),
    "mb_conv_5x5_e6": ("5×5 ×6", "#2b8a5a"),
    "mb_conv_7x7_e3": ("7×7 ×3", "#c79ad6"),
    "mb_conv_7x7_e6": ("7×7 ×6", "#7d3c98"),
    "conv1x1-bn-relu": ("conv 1×1", "#4aa3df"),
    "conv3x3-bn-relu": ("conv 3×3", "#0b4f8a"),
    "maxpool3x3": ("max pool", "#6aa84f"),
    "0": ("input", "#24292f"),
    **{str(node): (f"node {node}", "#4b5d67") for node in range(1, 7)},
    **{str(width): (f"{width} wide", "#2f7fc1") for width in range(8, 65, 8)},
}
"""Label and colour of each operation, the same in every picture."""

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
