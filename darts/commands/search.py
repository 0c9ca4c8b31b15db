"""Search an architecture.

Settings come from the defaults, the method's published values, --config, and these options; the
last one wins. `python -m darts methods NAME` shows a method's values.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from darts import options
from darts.config import ConfigError, ImageConfig, SearchConfig
from darts.methods import METHODS
from darts.recipes import configure
from darts.training.checkpoint import Stopped
from darts.training.evaluate import Evaluation, evaluate
from darts.training.evaluation_config import configure_evaluation
from darts.training.progress import Progress
from darts.training.search import Callback, Result, Search
from darts.training.tensorboard import TensorBoard

FLAGS = {
    "data": "data.source",
    "root": "data.root",
    "split": "data.split",
    "batch-size": "data.batch_size",
    "cutout": "data.cutout",
    "channels": "supernet.channels",
    "cells": "supernet.cells",
    "precision": "supernet.precision",
    "learning-rate": "weights.learning_rate",
    "arch-learning-rate": "arch.learning_rate",
    "max-params": "budget.params",
    "max-macs": "budget.macs",
    "max-latency": "budget.latency",
    "latency-table": "budget.table",
    "latency-device": "budget.device",
}
"""Options with a name of their own; every other grouped setting goes through --set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every setting; values stay text until the configuration checks them."""
    add_settings(parser)
    parser.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard files into the run folder"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What every command that searches takes."""
    options.declare(parser, SearchConfig, FLAGS)
    parser.add_argument("--quiet", action="store_true", help="plain lines without a progress bar")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="then train the found network from scratch for a few epochs, and test it",
    )
    parser.add_argument_group(
        "settings of single methods",
        "--NAME VALUE; `python -m darts methods METHOD` lists a method's.",
    )
    for name in method_options():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"options.{name}",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,  # a hundred lines that concern one method each
        )


def method_options() -> list[str]:
    """The name of every setting of a method."""
    names = (f.name for method in METHODS.values() for f in dataclasses.fields(method.Options))
    return list(dict.fromkeys(names))


def run(arguments: argparse.Namespace) -> int:
    """Search with a line an epoch on the terminal."""
    config = configure(**options.given(arguments))
    progress = Progress(quiet=arguments.quiet)
    callbacks: list[Callback] = [progress]
    if arguments.tensorboard:
        if not config.out:
            raise ConfigError("--tensorboard needs --out, the folder that it writes into")
        callbacks.append(TensorBoard(Path(config.out) / "tensorboard"))
    search = Search(config, callbacks=callbacks, resume=bool(arguments.resume))
    try:
        result = search.run()
        if arguments.evaluate:
            print(short_evaluation(search, result).summary())
    except Stopped as stop:
        again = f"python -m darts search --resume {config.out}"
        progress.stopped(f"{stop}; {again if config.out else 'nothing was saved (no --out)'}")
        return 0
    if result.folder and (result.folder / "search.png").exists():
        print(f"picture  {result.folder / 'search.png'}")
    return 0


def short_evaluation(search: Search, result: Result) -> Evaluation:
    """A short training from scratch of what was found, in the run folder's `evaluation`.

    Its images, loss, stem and head are the search's. Under a budget it is the network that is
    bounded, else one of the supernet's size.
    """
    config = search.config
    of = search.budget.sizes if search.budget else config.supernet
    as_searched: Any = {
        f.name: getattr(config.data, f.name) for f in dataclasses.fields(ImageConfig)
    }
    settings = configure_evaluation(
        genotype=str(result.genotype),
        seed=config.seed,
        device=config.device,
        out=os.path.join(config.out, "evaluation") if config.out else "",
        data=as_searched | {"batch_size": min(64, config.data.batch_size)},
        network={"channels": of.channels, "cells": of.cells, "adapt": config.supernet.adapt},
    )
    print(
        f"training the found network from scratch: {settings.training.epochs} epochs, "
        f"C={settings.network.channels}, N={settings.network.cells}",
        flush=True,
    )
    begun = (Path(settings.out) / "config.yaml").is_file() if settings.out else False
    return evaluate(settings, images=search.images, resume=begun)
