"""Studies: methods x settings x seeds, each cell a search of its own, and one table of results.

A study is a YAML file:

    out: runs/study                  # folder of the study
    base: {space: nb201, epochs: 30} # settings of every search
    methods: [edd, darts-v1]
    seeds: [0, 1, 2]
    settings:                        # optional: named variations
      s100: {options: {sn: s=100}}
      st1: {options: {sn: st=1}}

Every cell is a run folder under `out/cells`, searched by a process of its own: one that dies is
started again and resumes from its newest checkpoint, and a study that is started again goes on with
what is not finished.
"""

from __future__ import annotations

import fcntl
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from darts.checkpoint import differences
from darts.config import ConfigError, as_dict, merge, nearest
from darts.errors import UserError
from darts.nb201 import DATASETS, PUBLISHED, TITLES
from darts.options import read_yaml
from darts.recipes import configure
from darts.run_folder import RunFolder

ATTEMPTS = 3
"""How often a cell is started before it is given up."""
_KEYS = ("out", "base", "methods", "seeds", "settings")


@dataclass(frozen=True)
class Cell:
    """One search of a study."""

    method: str
    setting: str
    """Name of the variation; empty if the study has none."""
    seed: int
    folder: Path
    config: dict[str, Any]
    """The whole configuration, as the run folder stores it."""

    @property
    def row(self) -> str:
        """What the cells that differ in the seed alone have in common."""
        return f"{self.method}, {self.setting}" if self.setting else self.method

    @property
    def finished(self) -> bool:
        """Whether its search is over; the weights are the last thing that it must write."""
        return (self.folder / "weights.pt").is_file()


@dataclass(frozen=True)
class Study:
    """All cells, and where they live."""

    out: Path
    cells: tuple[Cell, ...]


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read a study's file; every cell's configuration is checked before any is run.

    Raises:
        UserError: the file is unreadable, or a key, method or setting is wrong.
    """
    tree = read_yaml(path)
    for key in tree:
        if key not in _KEYS:
            raise ConfigError(
                f"{os.fspath(path)}: unknown key {key!r}{nearest(key, dict.fromkeys(_KEYS))}"
            )
    for key in ("out", "methods", "seeds"):
        if not tree.get(key):
            raise ConfigError(f"{os.fspath(path)}: {key} is missing")
    for key in ("methods", "seeds"):
        if not isinstance(tree[key], list) or len(set(map(str, tree[key]))) != len(tree[key]):
            raise ConfigError(f"{os.fspath(path)}: {key} must be a list without repetitions")
    out = Path(str(tree["out"]))
    settings = tree.get("settings") or {"": {}}
    cells = []
    for method in tree["methods"]:
        for name, changes in settings.items():
            for seed in tree["seeds"]:
                label = "-".join(part for part in (str(method), name, f"seed{seed}") if part)
                folder = out / "cells" / label
                own = {"method": method, "seed": seed, "out": str(folder)}
                config = configure(**merge(tree.get("base") or {}, changes or {}, own))
                cells.append(Cell(config.method, name, config.seed, folder, as_dict(config)))
    return Study(out, tuple(cells))


Run = Callable[[Cell], bool]
"""Brings a cell to its end, wherever; gives whether it finished."""


def run_study(
    study: Study,
    *,
    workers: int = 1,
    report: Callable[[str], None] = print,
    run: Run | None = None,
) -> list[dict[str, Any]]:
    """Run what is not finished yet, and write `table.json` and `table.md` into the study's folder.

    Args:
        study: see `read_study`.
        workers: cells at a time.
        report: told a line whenever a cell starts or ends.
        run: brings one cell to its end; by default `run_cell`, on this machine.

    Returns:
        The rows of the table.

    Raises:
        UserError: a finished cell was run with another configuration, or a cell cannot be finished.
    """
    for cell in study.cells:
        if (cell.folder / "config.yaml").is_file():
            for change in differences(RunFolder.open(cell.folder).config, cell.config):
                raise UserError(
                    f"{cell.folder} was begun with another configuration: {change}; "
                    "name another folder in out, or delete the cell."
                )
    left = [cell for cell in study.cells if not cell.finished]
    report(f"{len(study.cells)} cells, {len(study.cells) - len(left)} finished before")
    (study.out / "cells").mkdir(parents=True, exist_ok=True)

    def one(cell: Cell) -> bool:
        report(f"start {cell.folder.name}")
        finished = (run or run_cell)(cell)
        report(f"{'end' if finished else 'NOT FINISHED'} {cell.folder.name}")
        return finished

    pool = ThreadPoolExecutor(workers)
    try:
        ended = list(pool.map(one, left))
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt no further cell is begun
    rows = table(study)
    folder = RunFolder(study.out)
    folder.write_text("table.json", json.dumps(rows, indent=1) + "\n")
    folder.write_text("table.md", markdown(rows))
    failed = [cell.folder.name for cell, good in zip(left, ended, strict=True) if not good]
    if failed:
        raise UserError(
            f"{len(failed)} cells are not finished ({', '.join(failed)}); their output is in "
            f"{study.out / 'cells'}/NAME.txt, and the same command goes on with them."
        )
    return rows


def run_cell(cell: Cell) -> bool:
    """Search one cell in a process of its own, again after a crash; gives whether it finished.

    Two processes never run one cell at the same time: the second waits, and then finds it finished.
    """
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cell.folder.with_suffix(".lock")) as lock:
        for _ in range(ATTEMPTS):
            if cell.finished:
                break
            if (cell.folder / "config.yaml").is_file():
                arguments = ["--resume", str(cell.folder)]
            else:
                file = cell.folder.with_suffix(".yaml")
                RunFolder(file.parent).write_text(file.name, yaml.safe_dump(cell.config))
                arguments = ["--config", str(file)]
            with cell.folder.with_suffix(".txt").open("a") as output:
                command = [sys.executable, "-m", "darts", "search", "--quiet", *arguments]
                status = subprocess.run(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                    pass_fds=(lock,),  # the search keeps the lock should this process die
                ).returncode
            if status in (0, 2):  # finished, asked to stop, or a mistake that would only repeat
                break
    return cell.finished


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def run_on_ray(address: str) -> Run:
    """A `Run` that hands each cell to a Ray cluster; lost workers are replaced by Ray.

    The working directory must be one that all machines share. Without an address, a cluster of
    this machine alone is started.

    Raises:
        UserError: Ray is not installed or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install ray.") from error
    try:
        ray.init(address=address or None, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray {address}: {error}.") from error
    directory = os.getcwd()

    def there(cell: Cell) -> bool:
        os.chdir(directory)
        return run_cell(cell)

    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(there)

    def run(cell: Cell) -> bool:
        try:
            return bool(ray.get(task.remote(cell)))
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray gave up {cell.folder.name}: {error}.") from error

    return run


def table(study: Study) -> list[dict[str, Any]]:
    """One row for each method and setting: mean and sample deviation over the finished seeds."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(cell.row for cell in study.cells):
        cells = [cell for cell in study.cells if cell.row == name]
        done = [cell for cell in cells if cell.finished]
        last = [RunFolder.open(cell.folder).records()[-1] for cell in done]
        measured: dict[str, list[float]] = {
            field: [record[field] for record in last if field in record]
            for field in ("entropy", "arch_accuracy")
        }
        for dataset in DATASETS:
            measured[f"nb201_{dataset}"] = [r["nb201"][dataset] for r in last if "nb201" in r]
        rows.append(
            {
                "name": name,
                "cells": len(cells),
                "finished": len(done),
                "genotypes": [(c.folder / "genotype.txt").read_text().strip() for c in done],
                **{
                    field: {"mean": statistics.fmean(values), "std": _deviation(values)}
                    for field, values in measured.items()
                    if values
                },
            }
        )
    return rows


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for people, with the published baselines where accuracies were looked up."""
    titles = {"entropy": "H(β)", "arch_accuracy": "supernet %"}
    titles |= {f"nb201_{name}": f"{TITLES[name]} test %" for name in DATASETS}
    fields = [field for field in titles if any(field in row for row in rows)]
    lines = [
        "| | seeds | " + " | ".join(titles[field] for field in fields) + " |",
        "| --- |" + " ---: |" * (len(fields) + 1),
    ]
    for row in rows:
        cells = [_cell(row.get(field)) for field in fields]
        lines.append(f"| {row['name']} | {row['finished']}/{row['cells']} | {' | '.join(cells)} |")
    if any(field.startswith("nb201") for field in fields):
        for name, values in PUBLISHED.items():
            known = {f"nb201_{dataset}": f"{values[dataset]:.2f}" for dataset in DATASETS}
            lines.append(f"| *{name}* | | {' | '.join(known.get(f, '') for f in fields)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.2f}" + (f" ± {value['std']:.2f}" if value["std"] is not None else "")
