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

import yaml

from darts.checkpoint import Stopped
from darts.config import ConfigError, SearchConfig, merge, nested, settings
from darts.errors import UserError
from darts.methods import METHODS
from darts.progress import Progress
from darts.recipes import configure
from darts.run_folder import RunFolder
from darts.search import Search

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
}
"""Options with a name of their own; every other grouped setting goes through --set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every setting; values stay text until the configuration checks them."""
    known = {path: field.metadata["doc"] for path, _, field in settings(SearchConfig)}
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
    parser.add_argument("--config", metavar="FILE.yaml", help="settings from a file")
    parser.add_argument(
        "--resume", metavar="DIR", help="go on with the interrupted search in this run folder"
    )
    parser.add_argument("--quiet", action="store_true", help="plain lines without a progress bar")
    own = parser.add_argument_group("settings of single methods")
    own.add_argument("--scale", help="sn-softmax with scale s (same as --sn s=X), or off")
    own.add_argument("--smooth-temperature", help="sn-softmax with st fixed (same as --sn st=X)")
    for name, (doc, users) in method_options().items():
        own.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"options.{name}",
            default=argparse.SUPPRESS,
            help=f"{doc} ({', '.join(users)})",
        )


def method_options() -> dict[str, tuple[str, list[str]]]:
    """Every method setting: name → documentation and the methods that have it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for method in METHODS.values():
        for field in dataclasses.fields(method.Options):
            found.setdefault(field.name, (field.metadata["doc"], []))[1].append(method.name)
    return found


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line asks for, as a tree."""
    given = {
        path: value
        for path, value in vars(arguments).items()
        if path not in ("run", "set", "config", "resume", "quiet", "scale", "smooth_temperature")
    }
    for text in arguments.set:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set needs GROUP.NAME=VALUE, not {text!r}")
        given[path] = value
    if arguments.scale is not None and arguments.smooth_temperature is not None:
        raise ConfigError("--scale and --smooth-temperature exclude each other")
    if arguments.scale is not None:
        given["options.sn"] = "off" if arguments.scale == "off" else f"s={arguments.scale}"
    if arguments.smooth_temperature is not None:
        given["options.sn"] = f"st={arguments.smooth_temperature}"
    file = read_yaml(arguments.config) if arguments.config else {}
    return merge(file, nested(given))


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings from a YAML file.

    Raises:
        UserError: it cannot be read or holds no mapping.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"config {os.fspath(path)!r} cannot be read: {error}.") from error
    if not isinstance(tree, dict):
        raise UserError(f"config {os.fspath(path)!r} must hold a mapping of settings.")
    return tree


def run(arguments: argparse.Namespace) -> int:
    """Search with a line an epoch on the terminal."""
    given = overrides(arguments)
    if arguments.resume:
        if given:
            raise ConfigError(
                f"--resume takes the run's own settings; leave out {', '.join(given)}"
            )
        given = RunFolder.open(arguments.resume).config | {"out": arguments.resume}
    progress = Progress(quiet=arguments.quiet)
    search = Search(configure(**given), callbacks=[progress], resume=bool(arguments.resume))
    try:
        search.run()
    except Stopped as stop:
        out = search.config.out
        again = f"python -m darts search --resume {out}" if out else "nothing was saved (no --out)"
        progress.stopped(f"{stop}; {again}")
    return 0
