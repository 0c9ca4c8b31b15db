"""Search under several budgets, for a front of accuracy against cost.

Takes every option of `search`. Writes one table (front.md, front.json) and one figure (front.png)
into --out, with dominated networks greyed, and each search's folder beside them. The same command
again goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from darts import options
from darts.commands.search import add_settings, short_evaluation
from darts.config import ConfigError
from darts.data import load
from darts.recipes import configure
from darts.training.checkpoint import Stopped
from darts.training.front import HEADINGS, front
from darts.training.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `search`, what is bounded, and how many budgets."""
    add_settings(parser)
    parser.add_argument("--of", choices=list(HEADINGS), default="params", help="cost [params]")
    parser.add_argument("--budgets", type=int, default=5, help="how many networks [5]")


def run(arguments: argparse.Namespace) -> int:
    """Search, one budget after another; print the table."""
    if arguments.resume:
        raise ConfigError("front goes on by itself: give the same command, without --resume")
    if arguments.budgets < 2:
        raise ConfigError(f"budgets must be at least 2, not {arguments.budgets}")
    config = configure(**options.given(arguments))
    data = config.data
    images = load(data.source, root=data.root, download=data.download, side=data.side)
    try:
        found = front(
            config,
            arguments.of,
            arguments.budgets,
            images,
            callbacks=lambda: [Progress(quiet=arguments.quiet)],
            trained=(lambda s, r: short_evaluation(s, r).top1[0]) if arguments.evaluate else None,
        )
    except Stopped as stop:
        print(f"{stop}; the same command goes on")
        return 0
    paths = found.write(Path(config.out))
    print(found.table())
    for path in paths:
        print(path)
    return 0
