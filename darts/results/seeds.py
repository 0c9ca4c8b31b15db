"""Searches that differ in their seed alone, as a mean and a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from darts.results.figures import PALETTE, Quantity, draw_trajectory, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from darts.results.run_folder import EpochRecord

FIELDS: dict[str, str] = {"gradient": "gradient_norms"}
"""Quantity → field of the log, where they differ and there is one."""


def draw_seeds(
    axes: Axes, groups: Mapping[str, Sequence[Sequence[EpochRecord]]], quantity: Quantity
) -> None:
    """`draw_trajectory` of the mean of each group of logs, with a band from least to greatest.

    Where logs are of different lengths the epochs that all of them have are drawn.
    """
    draw_trajectory(axes, {name: _mean_log(logs) for name, logs in groups.items()}, quantity)
    both = quantity in ("loss", "accuracy")
    field = f"arch_{quantity}" if both else FIELDS.get(quantity, quantity)
    for place, logs in enumerate(groups.values()):
        rows = [r for r in zip(*logs, strict=False) if all(field in record for record in r)]
        if len(logs) < 2 or not rows:
            continue
        values = np.array([[value_of(record, field) for record in row] for row in rows])
        epochs = [row[0]["epoch"] + 1 for row in rows]
        colour = PALETTE[place % len(PALETTE)]
        axes.fill_between(
            epochs, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0
        )


def _mean_log(logs: Sequence[Sequence[EpochRecord]]) -> list[EpochRecord]:
    """Epoch by epoch the mean of every number; of what else there is, the first log's."""

    def mean(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], dict):
            keys = [k for k in parts[0] if all(k in part for part in parts)]
            return {k: mean([part[k] for part in parts]) for k in keys}
        if isinstance(parts[0], list):
            return [mean(items) for items in zip(*parts, strict=True)]
        return float(np.mean(parts)) if isinstance(parts[0], float) else parts[0]

    return [cast("EpochRecord", mean(row)) for row in zip(*logs, strict=False)]
