"""NAS-Bench-201's table of 15,625 architectures and their accuracies.

The compact table is a (gzipped) CSV with the columns of `COLUMNS`: accuracies in percent after 200
epochs, averaged over the benchmark's seeds; `id` is the benchmark's own index and `params` the size
of the CIFAR-10 network.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from darts.benchmark.reading import read_text
from darts.errors import UserError
from darts.files import atomic_write, csv_text
from darts.networks.genotype import Genotype

DATASETS = ("cifar10", "cifar100", "imagenet16_120")
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16_120": "ImageNet16-120"}
COLUMNS = (
    "id",
    "arch",
    "cifar10_valid",
    "cifar10_test",
    "params",
    "cifar100_valid",
    "cifar100_test",
    "imagenet16_120_valid",
    "imagenet16_120_test",
)
SIZE = 15_625
PUBLISHED = {
    "optimum": {"cifar10": 94.37, "cifar100": 73.51, "imagenet16_120": 47.31},
    "ResNet": {"cifar10": 93.97, "cifar100": 70.86, "imagenet16_120": 43.63},
    "random search": {"cifar10": 93.70, "cifar100": 71.04, "imagenet16_120": 44.57},
    "all-skip collapse": {"cifar10": 54.30, "cifar100": 15.61, "imagenet16_120": 16.32},
}
"""Test accuracies in percent that belong beside every result (Dong & Yang, ICLR 2020, Table 5)."""

ALL_SKIP = (
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|"
    "+|skip_connect~0|skip_connect~1|skip_connect~2|"
)
"""Every edge a skip connection: where a collapsed search ends."""
RESNET = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
"""A residual block in this space, the benchmark's hand-made baseline."""


@dataclass(frozen=True)
class Row:
    """What the benchmark knows of one architecture.

    `valid` and `test` map each of `DATASETS` to an accuracy in percent.
    """

    id: int
    arch: str
    params: int
    valid: dict[str, float]
    test: dict[str, float]

    def accuracy(self, dataset: str = "cifar10", split: str = "test") -> float:
        """Accuracy in percent on `dataset` (one of `DATASETS`), `split` "valid" or "test".

        Raises:
            UserError: there is no such dataset or split.
        """
        if dataset not in DATASETS:
            raise UserError(
                f"dataset={dataset!r} is not in the benchmark; use one of {', '.join(DATASETS)}."
            )
        if split not in ("valid", "test"):
            raise UserError(f"split={split!r} is unknown; use valid or test.")
        return (self.test if split == "test" else self.valid)[dataset]


class Table:
    """The benchmark in memory: `table[arch]`, `table.optimum()`, `table.top(10)`.

    Args:
        rows: one for each architecture.
        source: named in messages.
    """

    def __init__(self, rows: list[Row], source: str = "the table") -> None:
        self.rows = rows
        self.source = source
        self._by_arch = {row.arch: row for row in rows}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Table:
        """Read a compact table.

        Raises:
            UserError: the file is absent, damaged, or not such a table.
        """
        file = Path(path)
        rows = read_text(
            file,
            lambda stream: [_row(fields) for fields in _records(stream, file)],
            f"nb201={str(file)!r} cannot be read as a NAS-Bench-201 table",
        )
        if len({row.arch for row in rows}) != SIZE or len(rows) != SIZE:
            raise UserError(
                f"nb201={str(file)!r} must hold {SIZE} different architectures, "
                f"but has {len(rows)} rows."
            )
        return cls(rows, str(file))

    def __getitem__(self, arch: str) -> Row:
        """The row of an architecture in the official string format, its edges in any order.

        Raises:
            UserError: the table has no such architecture.
        """
        found = self._by_arch.get(arch)
        if found is None:
            with suppress(ValueError):
                found = self._by_arch.get(str(Genotype.parse(arch)))
        if found is None:
            raise UserError(
                f"arch={arch!r} is not a NAS-Bench-201 architecture; the format is {RESNET!r}."
            )
        return found

    def top(self, count: int = 10, *, dataset: str = "cifar10", split: str = "test") -> list[Row]:
        """The `count` best architectures, best first."""
        return sorted(self.rows, key=lambda row: -row.accuracy(dataset, split))[:count]

    def optimum(self, dataset: str = "cifar10", split: str = "test") -> Row:
        """The best architecture."""
        return max(self.rows, key=lambda row: row.accuracy(dataset, split))

    @property
    def all_skip(self) -> Row:
        """The row of `ALL_SKIP`."""
        return self[ALL_SKIP]

    @property
    def resnet(self) -> Row:
        """The row of `RESNET` (the benchmark's paper prints 93.97 / 70.86 / 43.63)."""
        return self[RESNET]

    def rank(self, arch: str, dataset: str = "cifar10", split: str = "test") -> int:
        """The place of an architecture among all (1 is the best)."""
        own = self[arch].accuracy(dataset, split)
        return sum(row.accuracy(dataset, split) > own for row in self.rows) + 1

    def verdict(self, arch: str) -> str:
        """One line: test accuracies of `arch` beside the optimum's and the all-skip collapse's."""
        found, collapsed = self[arch].test, self.all_skip.test
        parts = [
            f"{TITLES[name]} {found[name]:.2f} (optimum {self.optimum(name).test[name]:.2f}, "
            f"all-skip {collapsed[name]:.2f})"
            for name in DATASETS
        ]
        return f"NAS-Bench-201 #{self[arch].id}, test accuracy in %: {', '.join(parts)}"


def write(rows: Sequence[Row], path: Path) -> None:
    """Write a compact table, gzipped if the name ends in `.gz`, whole or not at all."""
    lines: list[list[object]] = [list(COLUMNS)]
    for row in rows:
        accuracies = {
            f"{name}_{split}": value
            for split, values in (("valid", row.valid), ("test", row.test))
            for name, value in values.items()
        }
        fields = {"id": row.id, "arch": row.arch, "params": row.params, **accuracies}
        lines.append([fields[column] for column in COLUMNS])
    content = csv_text(lines).encode()
    with atomic_write(path) as file:
        # Without a time stamp, so that equal tables are equal files.
        file.write(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _records(stream: Iterator[str], file: Path) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(stream)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"nb201={str(file)!r} lacks the columns {', '.join(missing)}.")
    yield from reader


def _row(fields: dict[str, str]) -> Row:
    return Row(
        id=int(fields["id"]),
        arch=fields["arch"],
        params=int(fields["params"]),
        valid={dataset: float(fields[f"{dataset}_valid"]) for dataset in DATASETS},
        test={dataset: float(fields[f"{dataset}_test"]) for dataset in DATASETS},
    )
