"""Reading a study's file: which cells there are, each with its whole configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from darts.benchmark.nb201 import DATASETS, TITLES
from darts.config import ConfigError, SearchConfig, as_dict, merge, nearest
from darts.data.targets import MEASURES
from darts.methods import get_method
from darts.options import read_yaml
from darts.recipes import configure
from darts.spaces import get_space
from darts.training.evaluation_config import configure_evaluation

FOLDER = "studies"
"""Where a study that is called by its name alone lies: here, or beside the package's sources."""
_KEYS = ("title", "out", "base", "methods", "seeds", "settings", "per_method", "evaluate")
_OWN = ("name", "id", "seeds", "paper")
"""Keys of a method's entry that are no settings of its search."""


@dataclass(frozen=True)
class Cell:
    """One search of a study, and the trainings of what it finds."""

    row: str
    """What the table calls the cells that differ in the seed alone."""
    seed: int
    folder: Path
    config: dict[str, Any]
    """The whole configuration of the search, as the run folder stores it."""
    evaluations: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Overrides of each evaluation's configuration, by its name."""
    paper: Mapping[str, Any] = field(default_factory=dict)
    """Published values of the row by column: a number, or [mean, deviation]."""

    @property
    def searched(self) -> bool:
        """Whether the search is over; the weights are the last thing that it must write."""
        return (self.folder / "weights.pt").is_file()

    def evaluation(self, name: str) -> Path:
        """Run folder of one evaluation."""
        return self.folder / f"evaluate-{name}"

    @property
    def finished(self) -> bool:
        """Whether search and evaluations are over."""
        verdicts = [self.evaluation(name) / "result.json" for name in self.evaluations]
        return self.searched and all(verdict.is_file() for verdict in verdicts)


@dataclass(frozen=True)
class Study:
    """All cells, and where they live."""

    name: str
    """The file's, without its ending; names the tables too."""
    title: str
    profile: str
    """Empty if the file has none."""
    out: Path
    cells: tuple[Cell, ...]
    columns: Mapping[str, str]
    """Every quantity that its table can have, measured or published, with its title."""


ERRORS = {"top1": "error", "top5": "top-5 error"}
"""What tables give of networks for classes, by the names of `darts.data.targets.MEASURES`."""


def _columns(evaluations: Iterable[str]) -> dict[str, str]:
    found = {"entropy": "H(β)", "discrete_accuracy": "pruned %"}
    found |= {name: f"{TITLES[name]} %" for name in DATASETS}
    for name in evaluations:
        found |= {f"{name} {error}": f"{name} {error} %" for error in ERRORS.values()}
        others = (title for measure, title in MEASURES.items() if measure not in ERRORS)
        found |= {f"{name} {title}": f"{name} {title}" for title in others}
    return found | {"parameters": "params M", "seconds": "s"}


def _evaluations(tree: Any) -> Iterator[str]:
    """Names of the evaluations in every profile, so that published values always have a place."""
    if isinstance(tree, Mapping):
        yield from tree.get("evaluate") or ()
    if isinstance(tree, (Mapping, list)):
        for below in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _evaluations(below)


def locate(name: str) -> Path:
    """The file that `name` means: a path, or a study of the folder `studies`."""
    path = Path(name)
    if path.suffix or path.exists():
        return path
    # A wheel has the published ones in the package, a checkout has them beside it.
    here = Path(__file__).resolve()
    folders = Path(FOLDER), here.parent / FOLDER, here.parents[2] / FOLDER
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = {p.stem: p for folder in folders for p in folder.glob("*.yaml")}
    raise ConfigError(f"study {name!r} is neither a file nor one of {FOLDER}{nearest(name, known)}")


def read_study(name: str | os.PathLike[str], profile: str = "", device: str = "") -> Study:
    """Read a study's file; every cell's configuration is checked before any is run.

    Args:
        name: the file, or the name of one in the folder `studies`.
        profile: one of the file's profiles; needed exactly where it has some.
        device: of all searches, instead of what the file says.

    Raises:
        UserError: the file is unreadable, or a key, method or setting is wrong.
    """
    path = locate(os.fspath(name))
    file = read_yaml(path)
    columns = _columns(dict.fromkeys(_evaluations(file)))
    tree = _with_profile(path, file, profile)
    for method in tree.get("per_method") or {}:
        get_method(method)  # refuses a name that would silently change nothing
    out = Path(str(tree["out"]))
    settings = tree.get("settings") or {"": {}}
    cells: list[Cell] = []
    for entry in map(_entry, tree["methods"]):
        own = {key: value for key, value in entry.items() if key not in _OWN}
        for setting, changes in settings.items():
            whole = merge(
                tree.get("base") or {},
                {"evaluate": tree.get("evaluate") or {}},
                changes or {},
                (tree.get("per_method") or {}).get(entry["method"]) or {},
                own,
            )
            evaluations = whole.pop("evaluate")
            paper = entry["paper"].get(setting, {}) if setting else entry["paper"]
            for key in paper:
                if key not in columns:
                    raise ConfigError(
                        f"{path}: {entry['name']}: paper has no column {key!r}"
                        f"{nearest(key, columns)}"
                    )
            for seed in tree["seeds"][: entry["seeds"]]:
                label = "-".join(part for part in (entry["id"], setting, f"seed{seed}") if part)
                folder = out / "cells" / label
                given = {"seed": seed, "out": str(folder)} | ({"device": device} if device else {})
                config = configure(**merge(whole, given))
                row = f"{entry['name']}, {setting}" if setting else entry["name"]
                checked = {
                    name: _evaluation(config, folder, name, overrides)
                    for name, overrides in evaluations.items()
                }
                cells.append(Cell(row, config.seed, folder, as_dict(config), checked, paper))
    _check_labels(path, cells)
    return Study(path.stem, str(tree.get("title", path.stem)), profile, out, tuple(cells), columns)


def _with_profile(path: Path, tree: dict[str, Any], profile: str) -> dict[str, Any]:
    tree = dict(tree)
    profiles = tree.pop("profiles", None) or {}
    if profile not in profiles and (profile or profiles):
        what = f"{path}: profile {profile!r} is unknown" if profile else f"{path} needs a profile"
        raise ConfigError(what + nearest(profile, profiles))
    tree = merge(tree, profiles.get(profile) or {})
    for key in tree:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}{nearest(key, dict.fromkeys(_KEYS))}")
    for key in ("out", "methods", "seeds"):
        if not tree.get(key):
            raise ConfigError(f"{path}: {key} is missing")
    for key in ("methods", "seeds"):
        if not isinstance(tree[key], list) or len(set(map(str, tree[key]))) != len(tree[key]):
            raise ConfigError(f"{path}: {key} must be a list without repetitions")
    return tree


def _entry(entry: Any) -> dict[str, Any]:
    """A method's entry with everything that it may leave out."""
    given = entry if isinstance(entry, Mapping) else {"method": str(entry)}
    if "method" not in given:
        raise ConfigError(f"methods: {dict(given)!r} names no method")
    name = str(given.get("name", given["method"]))
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return {"name": name, "id": label, "paper": {}, "seeds": None, **given}


def _evaluation(
    config: SearchConfig, folder: Path, name: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Overrides of one evaluation, checked with some architecture of the space."""
    space = get_space(config.space)
    some = space.derive({cell: torch.ones(table.shape) for cell, table in space.cells.items()})
    mine = merge({"device": config.device, "seed": config.seed}, overrides)
    configure_evaluation(**merge(mine, {"genotype": str(some)}))
    return merge(mine, {"genotype": str(folder), "out": str(folder / f"evaluate-{name}")})


def _check_labels(path: Path, cells: list[Cell]) -> None:
    twice = {cell.folder.name for cell in cells}
    for cell in cells:
        if cell.folder.name not in twice:
            raise ConfigError(f"{path}: two rows share {cell.folder.name}; give one of them an id")
        twice.remove(cell.folder.name)


def rows(study: Study) -> Iterator[tuple[str, list[Cell]]]:
    """The cells that differ in the seed alone, by the name of their row."""
    for name in dict.fromkeys(cell.row for cell in study.cells):
        yield name, [cell for cell in study.cells if cell.row == name]
