"""Search by training networks: random, evolution, local, bananas, tpe or halving.

Each network trains on one half of the training images and is measured on the other. The best goes
to --out: its genotype, which `evaluate --genotype` trains and tests, and all networks as CSV. The
same command goes on where it was interrupted; --networks may be another.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from darts.baselines import SEARCHERS
from darts.baselines.trained import (
    Trained,
    read_networks,
    search_by_training,
    write_networks,
)
from darts.data import load_data
from darts.devices.device import check_device
from darts.errors import UserError
from darts.files import hold_settings, write_text
from darts.spaces import get_space

NETWORKS = "networks.csv"
SETTINGS = ("searcher", "space", "data", "epochs", "channels", "cells", "batch_size", "seed")
"""What the networks depend on: a search goes on in a folder where these are the same."""


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
    parser.add_argument("--out", required=True, help="folder to make, or to go on in")


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
    done = _begun(out, arguments)

    def report(trained: Trained) -> None:
        done.append(trained)
        _keep(out, done)
        _show(trained)

    for trained in done:
        _show(trained)
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
        done=list(done),
        report=report,
    )
    best = _keep(out, done) if done else "none"
    print(f"best: {best}, in {out / 'genotype.txt'}")
    return 0


def _keep(out: Path, networks: list[Trained]) -> str:
    """Write the networks, then the best of them; gives its genotype."""
    write_networks(out / NETWORKS, networks)
    best = networks[0]
    for trained in networks[1:]:
        best = trained if trained.better_than(best) else best
    write_text(out / "genotype.txt", f"{best.genotype}\n")
    return best.genotype


def _show(trained: Trained) -> None:
    print(f"{trained.cost:7.2f}  {trained.epochs:4d} epochs  {trained.valid:6.2f} %  ", end="")
    print(trained.genotype)


def _begun(out: Path, arguments: argparse.Namespace) -> list[Trained]:
    """Make the folder, or see that it is of the same search; gives what is trained already."""
    settings = {k: v for k, v in vars(arguments).items() if k in SETTINGS}
    file = out / "settings.json"
    if file.is_file():
        hold_settings(file, settings, out=arguments.out)
        return read_networks(out / NETWORKS) if (out / NETWORKS).exists() else []
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={arguments.out!r} must be a new or an empty folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={arguments.out!r} cannot be made: {error.strerror}.") from error
    hold_settings(file, settings, out=arguments.out)
    return []
