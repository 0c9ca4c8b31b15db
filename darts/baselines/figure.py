"""The picture of anytime curves: mean and band of each searcher, searches of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from darts.baselines.simulation import Curves
from darts.benchmark.nb201 import TITLES
from darts.results.figures import INK, MUTED, PALETTE, prepare, save


@dataclass(frozen=True)
class Point:
    """One search of this package."""

    name: str
    seconds: float
    """Of the search, on the machine that ran it."""
    test: float
    """The benchmark's test accuracy of what it found, in percent."""


def save_anytime(
    path: Path,
    curves: Mapping[str, Curves],
    *,
    dataset: str,
    optimum: float,
    network_seconds: float | None,
    points: list[Point],
) -> Path:
    """Draw test accuracy against the cost of the search, on a logarithmic axis.

    Args:
        path: `.png`, `.svg` or `.pdf`.
        curves: by name of the searcher.
        dataset: one of `darts.benchmark.nb201.DATASETS`.
        optimum: the best test accuracy in the table, in percent.
        network_seconds: what one trained network costs; None = the axis counts networks.
        points: drawn where the axis is seconds.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        cost = np.arange(1, curve.test.shape[1] + 1) * (network_seconds or 1.0)
        colour = PALETTE[place % len(PALETTE)]
        low, high = curve.band()
        axes.fill_between(cost, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(cost, curve.mean, color=colour, linewidth=1.8, label=name)
    for point in points:
        axes.plot(point.seconds, point.test, "D", color=INK, markersize=6)
        axes.annotate(
            point.name,
            (point.seconds, point.test),
            xytext=(6, -3),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )
    axes.axhline(optimum, color=MUTED, linewidth=1, linestyle=":", label=f"optimum {optimum:.2f}")
    axes.set_xscale("log")
    lowest = min(float(curve.mean[min(2, len(curve.mean) - 1)]) for curve in curves.values())
    lowest = min([lowest, *(point.test for point in points)])
    axes.set_ylim(lowest - 0.5, optimum + 0.05 * (optimum - lowest + 1))
    title = f"NAS-Bench-201, {TITLES[dataset]}: test accuracy of the best by validation (%)"
    unit = "simulated seconds" if network_seconds else "trained networks"
    prepare(axes, title, f"cost of the search ({unit})")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    return save(figure, path)
