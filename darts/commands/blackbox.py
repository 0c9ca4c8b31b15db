"""Search by training networks: random, evolution, local, or halving (successive halving).

Each network trains on one half of the training images and is measured on the other. The best goes
to --out: its genotype, which `evaluate --genotype` trains and tests, and all networks as CSV.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from darts.baselines import SEARCHERS
from darts.baselines.trained import Trained, search_by_training
from darts.data import load_data
from darts.devices.device import check_device
from darts.errors import UserError
from darts.files import csv_text, write_text
from darts.spaces import get_space


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--searcher", default="evolution", help=", ".join(SEARCHERS))
    parser.add_argument("--space", default="nb201", help="a space of nb201's skeleton [nb201]")
    parser.add_argument("--data", default="digits", help="as of search [digits]")
    parser.add_argument("--root", default="data", help="folder of the data sets [data]")
    parser.add_argument(
        "--networks", type=float, default=20, help="cost of the search in whole trainings [20]"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of a whole training [10]")
    parser.add_argument("--channels", type=int, default=16, help="of the first cell [16]")
    parser.add_argument("--cells", type=int, default=1, help="a stage [1]")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step [64]")
    parser.add_argument("--seed", type=int, default=0, help="of the search and trainings [0]")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0 [cpu]")
    parser.add_argument("--out", required=True, help="folder to make")


def run(arguments: argparse.Namespace) -> int:
    """Search; the networks so far are on disk after each."""
    if arguments.searcher not in SEARCHERS:
        raise UserError(
            f"searcher={arguments.searcher!r} is unknown; choose from {', '.join(SEARCHERS)}."
        )
    check_device(arguments.device)
    space = get_space(arguments.space)
    images = load_data(arguments.data, root=arguments.root, download=False, workers=0)
    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={arguments.out!r} must be a new or an empty folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={arguments.out!r} cannot be made: {error.strerror}.") from error
    done: list[Trained] = []
    best: Trained | None = None

    def report(trained: Trained) -> None:
        nonlocal best
        done.append(trained)
        _write_numbers(out / "networks.csv", done)
        if trained.better_than(best):
            best = trained
            write_text(out / "genotype.txt", f"{trained.genotype}\n")
        print(f"{trained.cost:7.2f}  {trained.epochs:4d} epochs  {trained.valid:6.2f} %  ", end="")
        print(trained.genotype)

    search_by_training(
        space,
        SEARCHERS[arguments.searcher],
        images,
        networks=arguments.networks,
        seed=arguments.seed,
        settings={
            "device": arguments.device,
            "data": {"batch_size": arguments.batch_size},
            "network": {"channels": arguments.channels, "cells": arguments.cells},
            "training": {"epochs": arguments.epochs},
        },
        report=report,
    )
    print(f"best: {best.genotype if best else 'none'}, in {out / 'genotype.txt'}")
    return 0


def _write_numbers(path: Path, networks: list[Trained]) -> None:
    rows = (asdict(network).values() for network in networks)
    write_text(path, csv_text([asdict(networks[0]), *rows]))
