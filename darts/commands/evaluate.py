"""Train a found architecture from scratch and test it.

Recipes: short (a few minutes on a CPU), nb201 (the benchmark's 200 epochs), darts (20 cells,
C = 36, 600 epochs). Settings come from the recipe and these options; the options win.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from darts import options
from darts.data.targets import MEASURES
from darts.training.checkpoint import Stopped
from darts.training.evaluate import evaluate
from darts.training.evaluation_config import EvaluationConfig, configure_evaluation

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
    options.declare(parser, EvaluationConfig, FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Train with a line an epoch on the terminal, then print the verdict."""
    config = configure_evaluation(**options.given(arguments))
    try:
        result = evaluate(config, report=_line, resume=bool(arguments.resume))
    except Stopped as stop:
        again = f"python -m darts evaluate --resume {config.out}"
        print(f"{stop}; {again if config.out else 'nothing was saved (no --out)'}")
        return 0
    print(result.summary())
    return 0


def _line(record: Mapping[str, Any]) -> None:
    tests = {label: record.get(f"test_{name}") for name, label in MEASURES.items()}
    first = next(f"{label} {value:.2f} %" for label, value in tests.items() if value is not None)
    print(
        f"seed {record['seed']}  epoch {record['epoch'] + 1}  loss {record['loss']:.4f}  "
        f"train {record['accuracy']:.2f} %  test {first}  "
        f"{record['seconds']:.1f} s",
        flush=True,
    )
