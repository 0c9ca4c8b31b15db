"""Rank NAS-Bench-201's cells by scores of untrained networks.

params and macs of all 15,625 cells; synflow, jacob_cov, naswot and swap of --count random ones, on
a batch of real images. Prints rank correlations with the table's test accuracy.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from darts.benchmark.nb201 import DATASETS, SIZE, TITLES, Row, Table
from darts.data import ImageSet, load_data, training_batches
from darts.devices.device import check_device
from darts.errors import UserError
from darts.files import csv_text, write_text
from darts.networks.network import build_network
from darts.zerocost import SCORES
from darts.zerocost.ranking import correlation, sizes

OF_SIZE = ("params", "macs")


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
    parser.add_argument("--out", help="CSV file of every score of the random cells")


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
    batch = _batch(images, arguments)
    seconds = _score(arguments, [table.rows[place] for place in chosen], images, batch, found)
    on_chosen = [accuracies[place] for place in chosen]
    for name, values in found.items():
        part = correlation(values, on_chosen)
        cost = f"{1000 * seconds[name] / len(chosen):11.1f}" if name in seconds else ""
        print(f"{name:12}{len(chosen):8d}{part.spearman:10.3f}{part.kendall:9.3f}{cost}")
    if arguments.out:
        _write(Path(arguments.out), [table.rows[place].arch for place in chosen], on_chosen, found)
    return 0


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
    rows: list[Row],
    images: ImageSet,
    batch: torch.Tensor,
    found: dict[str, list[float]],
) -> dict[str, float]:
    """Fill `found` by networks with weights of their own; gives the seconds of each score."""
    names = [name for name in arguments.scores if name not in OF_SIZE]
    seconds = dict.fromkeys(names, 0.0)
    found.update({name: [] for name in names})
    for place, row in enumerate(rows if names else []):
        torch.manual_seed(arguments.seed + place)
        net = build_network(
            row.arch,
            channels=arguments.channels,
            cells=arguments.cells,
            classes=images.classes,
            colours=images.shape[0],
        ).to(arguments.device)
        for name in names:
            started = time.perf_counter()
            found[name].append(SCORES[name](net, batch))
            seconds[name] += time.perf_counter() - started
    return seconds


def _write(
    path: Path, archs: list[str], accuracies: list[float], found: dict[str, list[float]]
) -> None:
    rows = zip(archs, accuracies, *found.values(), strict=True)
    write_text(path, csv_text([["arch", "accuracy", *found], *rows]))
