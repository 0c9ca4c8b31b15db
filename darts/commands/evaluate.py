"""Train a found architecture from scratch and test it.

Recipes: short (a few minutes on a CPU), nb201 (the benchmark's 200 epochs), darts (20 cells,
C = 36, 600 epochs). Settings come from the recipe and these options; the options win.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from darts.config import ConfigError, merge, nested, settings
from darts.evaluate import EvaluationConfig, configure, evaluate
from darts.run_folder import RunFolder

FLAGS = {
    "data": "data.source",
    "root": "data.root",
    "batch-size": "data.batch_size",
    "channels": "network.channels",
    "cells": "network.cells",
    "epochs": "training.epochs",
    "learning-rate": "training.learning_rate",
}
"""Options with a name of their own; every other grouped setting goes through --set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every setting; values stay text until the configuration checks them."""
    known = {path: field.metadata["doc"] for path, _, field in settings(EvaluationConfig)}
    known["genotype"] += ", or a file or run folder that holds it"
    named = {path: path for path in known if "." not in path} | FLAGS
    for flag, path in named.items():
        parser.add_argument(f"--{flag}", dest=path, default=argparse.SUPPRESS, help=known[path])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.NAME=VALUE",
        help="any other setting: " + ", ".join(p for p in known if p not in named.values()),
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")


def run(arguments: argparse.Namespace) -> int:
    """Train with a line an epoch on the terminal, then print the verdict."""
    given = {
        path: value
        for path, value in vars(arguments).items()
        if path not in ("run", "set", "resume")
    }
    for text in arguments.set:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set needs GROUP.NAME=VALUE, not {text!r}")
        given[path] = value
    if arguments.resume:
        if given:
            raise ConfigError(f"--resume takes no other option, not {', '.join(given)}")
        given = RunFolder.open(arguments.resume).config | {"out": arguments.resume}
        config = configure(**given)
    else:
        config = configure(**merge(nested(given)))
    result = evaluate(config, report=_line, resume=bool(arguments.resume))
    print(result.summary())
    return 0


def _line(record: Mapping[str, Any]) -> None:
    print(
        f"seed {record['seed']}  epoch {record['epoch'] + 1}  loss {record['loss']:.4f}  "
        f"train {record['accuracy']:.2f} %  test {record['test_top1']:.2f} %  "
        f"{record['seconds']:.1f} s",
        flush=True,
    )
