"""The folder that holds everything about one run.

    config.yaml     the configuration the run was started with
    environment.json  threads, PyTorch and CPU, which decide a run's last bits
    log.jsonl       one JSON object per line, appended as the run goes
    genotype.txt    the architecture found
    weights.pt      the final weights
    search.png      the picture of the run

Every file but the log is written whole or not at all; the log grows by whole lines.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
import yaml

from darts.errors import UserError, on_one_line
from darts.files import atomic_write, write_text, writing


class EpochRecord(TypedDict, total=False):
    """One line of a search's log; figures and reports read these names."""

    epoch: int
    """From 0."""
    temperature: float
    """Temperature t of β's softmax in the epoch (1 where the method has none)."""
    entropy: float
    """E(H(β)): mean over the edges of all cells, in nats."""
    weight_loss: float
    weight_accuracy: float
    """Of the supernet on the half for the weights, in percent: accuracy, images with all labels
    right, or R², as the labels are; loss is the mean loss."""
    arch_loss: float
    arch_accuracy: float
    """Of the supernet on the half for the architecture, in percent."""
    discrete_accuracy: float
    """Of the derived architecture, pruned out of the supernet, on the same half (Fig. 4B), by batch
    statistics."""
    running_accuracy: float
    """Of the supernet at t = 1e-4, on the same half, by running statistics, as EDD's released loop
    draws Fig. 4B; methods that follow that loop have it."""
    seconds: float
    cpu_seconds: float
    """Processor time of all threads since the epoch began or was resumed."""
    genotype: str
    """Architecture derived at the end of the epoch (Eq. 2), in the official text format."""
    weights: dict[str, list[list[float]]]
    """β at the end of the epoch: cell type to [edges, operations]."""
    gradient_norms: dict[str, list[float]]
    """Mean L2 norm of dL/dα over the epoch's arch steps: cell type to [edges]."""
    budget: dict[str, dict[str, float]]
    """Of a search under a budget, by kind: `cost` of the architecture, `limit`, and the `weight` of
    the arch step's term."""
    nb201: dict[str, float]
    """Looked-up test accuracy in percent by data set, where a table was given."""


class RunFolder:
    """Files of one run; see the module's docstring for the layout.

    Use `create` for a new run and `open` for one that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = path / "log.jsonl"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> RunFolder:
        """Make the folder and store the configuration.

        Args:
            path: a folder that does not exist or is empty.
            config: nested plain values; written to `config.yaml`.

        Raises:
            UserError: the folder holds files already, or cannot be made.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"out={str(folder)!r} is not an empty folder; "
                "name another, or resume the run in it."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"out={str(folder)!r} cannot be made: {error.strerror}.") from error
        run = cls(folder)
        run.write_text(
            "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        )
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            UserError: it is no run folder.
        """
        folder = Path(path)
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} is not a run folder: config.yaml is missing.")
        return cls(folder)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as stored.

        Raises:
            UserError: the file is damaged.
        """
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.path / 'config.yaml'} cannot be read: {on_one_line(error)}."
            ) from error
        if not isinstance(config, dict):
            raise UserError(f"{self.path / 'config.yaml'} must hold a mapping of settings.")
        return config

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file as a whole; give its path."""
        return write_text(self.path / name, text)

    def write_genotype(self, genotype: str) -> Path:
        """Write the architecture found (the space's own text format) to `genotype.txt`."""
        return self.write_text("genotype.txt", genotype + "\n")

    def write_weights(self, state: Mapping[str, Any], name: str = "weights.pt") -> Path:
        """Write a `state_dict`; `torch.load(..., weights_only=True)` reads it."""
        content = io.BytesIO()  # on a full disk torch.save itself would raise something else
        torch.save(dict(state), content)
        with atomic_write(self.path / name) as file:
            file.write(content.getbuffer())
        return self.path / name

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record (`EpochRecord` for a search) to the log.

        Raises:
            ValueError: a number is NaN or infinite, which JSON lacks.
            UserError: the log cannot be written.
        """
        line = json.dumps(dict(record), allow_nan=False) + "\n"
        with writing(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """The log so far; a last line that a killed process left unfinished is passed over."""
        return [json.loads(line) for line in self._lines()]

    def truncate_log(self, count: int) -> None:
        """Keep the first `count` records, which is where a resumed run goes on from.

        Raises:
            UserError: the log has fewer.
        """
        lines = self._lines()
        if len(lines) < count:
            raise UserError(
                f"{self._log} has {len(lines)} records, but the checkpoint was taken after {count}."
            )
        self.write_text(self._log.name, "".join(lines[:count]))

    def _lines(self) -> list[str]:
        if not self._log.exists():
            return []
        text = self._log.read_text(encoding="utf-8")
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
