"""The compact table from the official files of NATS-Bench and NAS-Bench-201.

Three layouts are read, all published by the benchmarks' authors:

- the folder `NATS-tss-v1_0-3ffb9-simple`: `meta.pickle.pbz2` and one `000000.pickle.pbz2` an
architecture;
- the single file `NATS-tss-v1_0-3ffb9.pickle.pbz2`;
- `NAS-Bench-201-v1_0-e61699.pth` and `-v1_1-096897.pth`.

Pickles are read by an unpickler that makes plain values, NumPy numbers and nothing else; trained
weights inside are passed over.
"""

from __future__ import annotations

import bz2
import pickle
import statistics
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from darts import safe_pickle
from darts.benchmark import nb201
from darts.benchmark.nb201 import Row
from darts.errors import UserError

_VALID = {
    "cifar10": ("cifar10-valid", "x-valid"),
    "cifar100": ("cifar100", "x-valid"),
    "imagenet16_120": ("ImageNet16-120", "x-valid"),
}
_TEST = {
    "cifar10": ("cifar10", "ori-test"),
    "cifar100": ("cifar100", "x-test"),
    "imagenet16_120": ("ImageNet16-120", "x-test"),
}
"""Which training and which evaluation set of the official files each number comes from."""

_BROKEN = (OSError, EOFError, pickle.UnpicklingError, KeyError, ValueError, TypeError, IndexError)


def import_official(source: Path, target: Path) -> int:
    """Write the compact table of the 200-epoch results; gives the number of architectures.

    Args:
        source: a folder or file of one of the layouts above.
        target: `.csv` or `.csv.gz`; written whole or not at all.

    Raises:
        UserError: the source is absent, damaged, incomplete or of another layout.
    """
    if not target.name.endswith((".csv", ".csv.gz")):
        raise UserError(f"target {str(target)!r} must end in .csv or .csv.gz.")
    try:
        rows = [_row(index, arch, results) for index, arch, results in _architectures(source)]
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(
            f"{source} is not an official NATS-Bench or NAS-Bench-201 file, or is damaged "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."
        ) from error
    if len(rows) != nb201.SIZE:
        raise UserError(f"{source} has {len(rows)} architectures, and the benchmark {nb201.SIZE}.")
    nb201.write(rows, target)
    return len(rows)


def _architectures(source: Path) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Index, architecture and the state of its 200-epoch results."""
    if source.is_dir():
        meta = _unpickle(source / "meta.pickle.pbz2")
        for index, arch in enumerate(meta["meta_archs"]):
            yield index, arch, _unpickle(source / f"{index:06d}.pickle.pbz2")["200"]
        return
    if source.name.endswith(".pth"):
        with torch.serialization.safe_globals(_SAFE):
            whole = torch.load(source, map_location="meta", weights_only=True)
    else:
        whole = _unpickle(source)
    for index, arch in enumerate(whole["meta_archs"]):
        runs = whole["arch2infos"][index]
        yield index, arch, runs["200"] if "200" in runs else runs["full"]


def _row(index: int, arch: str, results: Mapping[str, Any]) -> Row:
    return Row(
        id=index,
        arch=arch,
        params=round(1e6 * float(_runs(results, "cifar10")[0]["params"])),
        valid={name: _accuracy(results, *where) for name, where in _VALID.items()},
        test={name: _accuracy(results, *where) for name, where in _TEST.items()},
    )


def _runs(results: Mapping[str, Any], dataset: str) -> list[Mapping[str, Any]]:
    """The state of each seed's training on a data set."""
    return [results["all_results"][dataset, seed] for seed in results["dataset_seed"][dataset]]


def _accuracy(results: Mapping[str, Any], dataset: str, split: str) -> float:
    """Accuracy in percent after the last epoch, mean over the seeds."""
    values = [
        float(run["eval_acc1es"][f"{split}@{run['epochs'] - 1}"]) for run in _runs(results, dataset)
    ]
    return round(statistics.fmean(values), 4)


def _nothing(*arguments: Any, **named: Any) -> None:
    """Stands for the makers of tensors."""


_SAFE: list[Any] = [
    OrderedDict,
    defaultdict,
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
    (safe_pickle.SCALAR, "numpy.core.multiarray.scalar"),
    (safe_pickle.SCALAR, "numpy._core.multiarray.scalar"),
]
"""What `torch.load` may make beside tensors and plain values."""
_WEIGHTS = {
    ("torch._utils", "_rebuild_tensor_v2"): _nothing,
    ("torch._utils", "_rebuild_parameter"): _nothing,
    ("torch.storage", "_load_from_bytes"): _nothing,
}
"""Trained weights, which the table has no use for."""


def _unpickle(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with bz2.open(path) as file:
        return safe_pickle.load(cast("IO[bytes]", file), extra=_WEIGHTS)
