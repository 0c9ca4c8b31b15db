"""What a study found: one row for each method and setting, beside the published values."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from darts.benchmark.nb201 import DATASETS, PUBLISHED, Table
from darts.data.targets import MEASURES
from darts.results.run_folder import RunFolder
from darts.study.plan import ERRORS, Cell, Study, rows

TRAJECTORIES = ("temperature", "entropy", "discrete_accuracy")
"""Fields of the log that the table keeps for every epoch (Fig. 4)."""


def table(study: Study) -> dict[str, Any]:
    """Everything that the finished cells hold, ready for JSON.

    Returns:
        title, profile, torch (version), columns (titles of the quantities), references (known
        values of NAS-Bench-201), and rows; each row with name, paper, cells (how many there are),
        runs (one entry a finished seed: its quantities, genotype and trajectories), mean and std
        (sample deviation) of the quantities over the runs.
    """
    return {
        "title": study.title,
        "profile": study.profile,
        "torch": torch.__version__,
        "columns": dict(study.columns),
        "references": _references(study),
        "rows": [_row(name, cells) for name, cells in rows(study)],
    }


def _references(study: Study) -> dict[str, dict[str, float]]:
    files = {cell.config["nb201"] for cell in study.cells} - {""}
    if not files:
        return {}
    known = _known(files.pop()).rows
    mean = {name: statistics.fmean(row.test[name] for row in known) for name in DATASETS}
    return {**PUBLISHED, "mean of the space": mean}


@functools.cache
def _known(file: str) -> Table:
    """Read once for all cells."""
    return Table.load(file)


def _row(name: str, cells: Sequence[Cell]) -> dict[str, Any]:
    runs = [_run(cell) for cell in cells if cell.finished]
    fields = [key for key, value in runs[0].items() if isinstance(value, float)] if runs else []
    values = {field: [run[field] for run in runs] for field in fields}
    return {
        "name": name,
        "paper": dict(cells[0].paper),
        "cells": len(cells),
        "runs": runs,
        "mean": {field: statistics.fmean(each) for field, each in values.items()},
        "std": {f: statistics.stdev(each) for f, each in values.items() if len(each) > 1},
    }


def _run(cell: Cell) -> dict[str, Any]:
    """Quantities of one finished cell."""
    folder = RunFolder.open(cell.folder)
    records = folder.records()
    last = records[-1]
    clock = "cpu_seconds" if cell.config["device"] == "cpu" else "seconds"
    genotype = (cell.folder / "genotype.txt").read_text().strip()
    run: dict[str, Any] = {
        "seed": cell.seed,
        "genotype": genotype,
        "entropy": last["entropy"],
        "discrete_accuracy": last["discrete_accuracy"],
    }
    if file := cell.config["nb201"]:  # what was selected in the end, not after the last epoch
        run |= _known(file)[genotype].test
    for name in cell.evaluations:
        verdict = json.loads((cell.evaluation(name) / "result.json").read_text())
        for measure, title in MEASURES.items():
            if measure not in verdict:
                continue
            mean = statistics.fmean(verdict[measure])
            if measure in ERRORS:
                run[f"{name} {ERRORS[measure]}"] = 100 - mean
            else:
                run[f"{name} {title}"] = mean
        run["parameters"] = verdict["parameters"] / 1e6
    run["seconds"] = sum(record[clock] for record in records)
    run["trajectory"] = {f: [round(r[f], 6) for r in records] for f in TRAJECTORIES}
    if "gradient_norms" in last:
        run["trajectory"]["gradient"] = [_mean_norm(record) for record in records]
    if "nb201" in last:
        run["trajectory"]["cifar10"] = [r["nb201"]["cifar10"] for r in records]
    return run


def _mean_norm(record: Mapping[str, Any]) -> float | None:
    """Of dL/dα over all edges; None in an epoch without arch steps."""
    norms = [norm for edges in record.get("gradient_norms", {}).values() for norm in edges]
    return float(f"{statistics.fmean(norms):.4g}") if norms else None


def markdown(results: Mapping[str, Any]) -> str:
    """The table for people: what was measured beside what the paper has."""
    lines = results["rows"]
    published = [f for f in results["columns"] if any(f in row["paper"] for row in lines)]
    measured = [f for f in results["columns"] if any(f in row["mean"] for row in lines)]
    shown = [field for field in results["columns"] if field in {*published, *measured}]
    heads = []
    for field in shown:
        title = results["columns"][field]
        heads += [title] if field in measured else []
        heads += ["paper" if field in measured else f"{title}, paper"] if field in published else []
    text = ["| | seeds | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) + 1)]
    for row in lines:
        values = []
        for field in shown:
            mean = row["mean"].get(field)
            if field in measured:
                values.append("–" if mean is None else _spread(mean, row["std"].get(field)))
            if field in published:
                values.append(_published(row["paper"].get(field)))
        count = f"{len(row['runs'])}/{row['cells']}"
        text.append(f"| {row['name']} | {count} | {' | '.join(values)} |")
    if any(name in shown for name in DATASETS):
        for name, known in results["references"].items():
            values = []
            for field in shown:
                value = f"{known[field]:.2f}" if field in known else ""
                values += [value] if field in measured else []
                values += [""] if field in published else []
            text.append(f"| *{name}* | | {' | '.join(values)} |")
    return "\n".join(text) + "\n"


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


def _published(value: Any) -> str:
    if value is None:
        return ""
    return _spread(*value) if isinstance(value, list) else f"{value:g}"
