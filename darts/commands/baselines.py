"""Draw the anytime curves of black-box searches on NAS-Bench-201's table.

random (random search), evolution (regularised evolution), local (local search); the test accuracy
of the best by validation against the simulated cost of training, mean and 10th to 90th percentile.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from darts.baselines import SEARCHERS
from darts.baselines.figure import Point, save_anytime
from darts.baselines.simulation import MEAN_SECONDS, Answers, Curves, simulate
from darts.benchmark.nb201 import DATASETS, TITLES, Table
from darts.errors import UserError
from darts.files import csv_text, write_text
from darts.results.run_folder import RunFolder
from darts.training.evaluation_config import parse

SUFFIXES = (".png", ".svg", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--table", required=True, help="the compact table (.csv or .csv.gz)")
    parser.add_argument("--dataset", default="cifar10", help=", ".join(DATASETS) + " [cifar10]")
    parser.add_argument(
        "--searchers", nargs="+", default=["random", "evolution", "local"], help="which [these]"
    )
    parser.add_argument("--networks", type=int, default=300, help="networks a search trains [300]")
    parser.add_argument("--searches", type=int, default=1000, help="seeds of each [1000]")
    parser.add_argument("--seed", type=int, default=0, help="of all draws [0]")
    parser.add_argument(
        "--network-seconds",
        type=float,
        help=f"cost of one training [cifar10: {MEAN_SECONDS:.0f}, the benchmark's mean; others: "
        "none, the axis counts networks]",
    )
    parser.add_argument(
        "--runs", nargs="*", default=[], help="folders of searches to draw as points"
    )
    parser.add_argument(
        "--out", default="anytime.svg", help="figure; the numbers lie beside it as .csv"
    )


def run(arguments: argparse.Namespace) -> int:
    """Simulate, print the table, write figure and numbers."""
    out = Path(arguments.out)
    if out.suffix not in SUFFIXES:
        raise UserError(f"out={str(out)!r} must end in one of {', '.join(SUFFIXES)}.")
    if not out.parent.is_dir():
        raise UserError(f"out={str(out)!r} must lie in a folder that exists.")
    for name in arguments.searchers:
        if name not in SEARCHERS:
            raise UserError(f"searcher {name!r} is unknown; choose from {', '.join(SEARCHERS)}.")
    seconds: float | None = arguments.network_seconds
    if seconds is None and arguments.dataset == "cifar10":
        seconds = MEAN_SECONDS
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UserError(f"network-seconds={seconds} must be a number above 0.")
    if arguments.runs and seconds is None:
        raise UserError("runs need --network-seconds, since they are placed by their seconds.")
    table = Table.load(arguments.table)
    points = [_point(table, Path(path), arguments.dataset) for path in arguments.runs]
    optimum = table.optimum(arguments.dataset).test[arguments.dataset]
    answers = Answers(table, arguments.dataset)
    curves: dict[str, Curves] = {}
    print(f"{TITLES[arguments.dataset]}, test accuracy in %, optimum {optimum:.2f}")
    places = [n for n in (10, 30, 100, 300, 1000) if n < arguments.networks] + [arguments.networks]
    print(f"{'networks trained':18}" + "".join(f"{place:>16d}" for place in places))
    for name in arguments.searchers:
        started = time.perf_counter()
        curve = simulate(
            answers,
            SEARCHERS[name],
            networks=arguments.networks,
            searches=arguments.searches,
            seed=arguments.seed,
        )
        rate = arguments.searches / (time.perf_counter() - started)
        curves[name] = curve
        spread = curve.test.std(0)
        cells = "".join(
            f"{f'{curve.mean[place - 1]:.2f} ± {spread[place - 1]:.2f}':>16}" for place in places
        )
        print(f"{name:18}{cells}   {rate:,.0f} searches/s")
    save_anytime(
        out,
        curves,
        dataset=arguments.dataset,
        optimum=optimum,
        network_seconds=seconds,
        points=points,
    )
    _write_numbers(out.with_suffix(".csv"), curves, seconds)
    print(f"{out}, {out.with_suffix('.csv')}")
    return 0


def _point(table: Table, path: Path, dataset: str) -> Point:
    records = RunFolder.open(path).records()
    seconds = sum(float(record["seconds"]) for record in records)
    return Point(path.name, seconds, table[str(parse(str(path)))].accuracy(dataset))


def _write_numbers(path: Path, curves: dict[str, Curves], seconds: float | None) -> None:
    """One row a searcher and count of networks: cost, mean, deviation, band; accuracies in %."""
    lines: list[list[object]] = [
        ["searcher", "networks", "seconds", "mean", "standard_deviation", "low10", "high90"]
    ]
    for name, curve in curves.items():
        rows = zip(curve.mean, curve.test.std(0), *curve.band(), strict=True)
        for count, row in enumerate(rows, start=1):
            cost = f"{count * seconds:.0f}" if seconds else ""
            lines.append([name, count, cost, *(f"{value:.4f}" for value in row)])
    write_text(path, csv_text(lines))
