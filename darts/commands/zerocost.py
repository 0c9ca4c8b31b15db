"""Rank NAS-Bench-201's cells by scores of untrained networks.

params and macs of all 15,625 cells; synflow, jacob_cov, naswot and swap of --count random ones, on
a batch of real images. Prints rank correlations with the table's test accuracy. The same command
with --out goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from darts.benchmark.nb201 import DATASETS, SIZE, TITLES, Table
from darts.data import ImageSet, load_data, training_batches
from darts.devices.device import check_device
from darts.errors import UserError
from darts.files import csv_text, hold_settings, read_csv, write_text
from darts.networks.network import build_network
from darts.zerocost import SCORES
from darts.zerocost.ranking import correlation, sizes

OF_SIZE = ("params", "macs")
SETTINGS = ("dataset", "scores", "count", "data", "batch_size", "channels", "cells", "seed")
"""What the scores depend on: a file goes on where these are the same."""
SAVED_EVERY = 100
"""Cells."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--table", required=True, help="the compact table (.csv or .csv.gz)")
    parser.add_argument("--dataset", default="cifar10", help=", ".join(DATASETS) + " [cifar10]")
    parser.add_argument("--scores", nargs="+", default=list(SCORES), help=", ".join(SCORES))
    parser.add_argument("--count", type=int, default=100, help="random cells to score [100]")
    parser.add_argument("--data", default="digits", help="images, as of search [digits]")
    parser.add_argument("--root", default="data", help="folder of the data sets [data]")
    parser.add_argument("--batch-size", type=int, default=32, help="images [32]")
    parser.add_argument("--channels", type=int, default=16, help="of the first cell [16]")
    parser.add_argument("--cells", type=int, default=5, help="a stage [5, the benchmark's]")
    parser.add_argument("--seed", type=int, default=0, help="of cells, weights and images [0]")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0 [cpu]")
    parser.add_argument("--out", help="CSV file of the random cells' scores, to make or go on with")


def run(arguments: argparse.Namespace) -> int:
    """Score, print the correlations, write the scores."""
    if not 2 <= arguments.count <= SIZE:
        raise UserError(f"count={arguments.count} must lie between 2 and {SIZE}.")
    for name in arguments.scores:
        if name not in SCORES:
            raise UserError(f"score {name!r} is unknown; choose from {', '.join(SCORES)}.")
    for name in ("batch_size", "channels", "cells"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name}={getattr(arguments, name)} must be at least 1.")
    if arguments.out and not Path(arguments.out).parent.is_dir():
        raise UserError(f"out={arguments.out!r} must lie in a folder that exists.")
    check_device(arguments.device)
    table = Table.load(arguments.table)
    images = load_data(arguments.data, root=arguments.root, download=False, workers=0)
    if not isinstance(images, ImageSet):
        raise UserError(f"data={arguments.data!r} must be a data set in memory.")
    accuracies = [row.accuracy(arguments.dataset) for row in table.rows]
    chosen = np.random.default_rng(arguments.seed).choice(SIZE, arguments.count, replace=False)
    rows = [table.rows[place] for place in chosen]
    archs, on_chosen = [row.arch for row in rows], [accuracies[place] for place in chosen]
    out = Path(arguments.out) if arguments.out else None
    begun = _begun(out, arguments, archs)
    all_sizes = sizes(
        [row.arch for row in table.rows],
        channels=arguments.channels,
        cells=arguments.cells,
        classes=images.classes,
        shape=images.shape,
    )
    print(f"rank correlation with the test accuracy on {TITLES[arguments.dataset]}")
    print(f"{'score':12}{'cells':>8}{'Spearman':>10}{'Kendall':>9}{'ms a cell':>11}")
    found: dict[str, list[float]] = {}
    for name in arguments.scores:
        if name in OF_SIZE:
            whole = correlation(all_sizes[name], accuracies)
            print(f"{name:12}{SIZE:8d}{whole.spearman:10.3f}{whole.kendall:9.3f}")
            found[name] = [all_sizes[name][place] for place in chosen]
    found.update(begun)

    def save() -> None:
        if out is not None:
            scored = zip(archs, on_chosen, *found.values(), strict=False)  # those so far
            write_text(out, csv_text([["arch", "accuracy", *found], *scored]))

    milliseconds = _score(arguments, archs, images, found, save)
    for name, values in found.items():
        part = correlation(values, on_chosen)
        cost = f"{milliseconds[name]:11.1f}" if name in milliseconds else ""
        print(f"{name:12}{len(chosen):8d}{part.spearman:10.3f}{part.kendall:9.3f}{cost}")
    return 0


def _begun(
    out: Path | None, arguments: argparse.Namespace, archs: list[str]
) -> dict[str, list[float]]:
    """The scores, but for those of size, that the file has of the first cells."""
    found: dict[str, list[float]] = {n: [] for n in arguments.scores if n not in OF_SIZE}
    if out is None:
        return found
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    kept = out.with_name(f"{out.name}.settings.json")
    if out.exists() and not kept.exists():
        raise UserError(f"out={arguments.out!r} is a file that this command has not begun.")
    hold_settings(kept, settings, out=arguments.out)
    if out.exists():
        lines = read_csv(out, {"arch": str, **dict.fromkeys(found, float)})
        if lines is None or [line["arch"] for line in lines] != archs[: len(lines)]:
            raise UserError(f"out={arguments.out!r} does not hold the scores of these cells.")
        found = {name: [line[name] for line in lines] for name in found}
    return found


def _batch(images: ImageSet, arguments: argparse.Namespace) -> torch.Tensor:
    """The first training batch, as it is without augmentation."""
    batches = training_batches(
        images,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        device=arguments.device,
        augment=False,
        cutout=0,
    )
    return next(iter(batches.epoch())).images


def _score(
    arguments: argparse.Namespace,
    archs: list[str],
    images: ImageSet,
    found: dict[str, list[float]],
    save: Callable[[], None],
) -> dict[str, float]:
    """Fill `found` by networks with weights of their own.

    Gives what each score took now, ms a cell.
    """
    names = [name for name in arguments.scores if name not in OF_SIZE]
    before = len(found[names[0]]) if names else len(archs)
    seconds = dict.fromkeys(names if before < len(archs) else (), 0.0)
    batch = _batch(images, arguments)
    for place in range(before, len(archs)):
        torch.manual_seed(arguments.seed + place)
        net = build_network(
            archs[place],
            channels=arguments.channels,
            cells=arguments.cells,
            classes=images.classes,
            colours=images.shape[0],
        ).to(arguments.device)
        for name in names:
            started = time.perf_counter()
            found[name].append(SCORES[name](net, batch))
            seconds[name] += time.perf_counter() - started
        if (place + 1) % SAVED_EVERY == 0 and place + 1 < len(archs):
            save()
            print(f"{place + 1} of {len(archs)} cells", file=sys.stderr, flush=True)
    save()
    return {name: 1000 * total / (len(archs) - before) for name, total in seconds.items()}
