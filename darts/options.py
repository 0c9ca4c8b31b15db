"""Settings on a command line: one option for each, from the declarations in the configuration."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from darts.config import ConfigError, merge, nested, settings
from darts.errors import UserError, on_one_line
from darts.results.run_folder import RunFolder


def declare(parser: argparse.ArgumentParser, config: type[Any], flags: Mapping[str, str]) -> None:
    """Add every setting of the dataclass `config`; values stay text until it checks them.

    Args:
        parser: gains an option for each ungrouped setting and each of `flags`; the grouped ones go
            through `--set`. Also `--config` and `--resume`.
        config: dataclass whose fields are declared with `setting`.
        flags: option to dotted path, for grouped settings that deserve a name of their own.
    """
    known = {path: field.metadata["doc"] for path, _, field in settings(config)}
    named = {path.replace("_", "-"): path for path in known if "." not in path} | dict(flags)
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
        "--resume", metavar="DIR", help="go on with the interrupted run in this folder"
    )
    parser.set_defaults(settings=frozenset(known))


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line asks for, as a tree; `--resume` gives the run's own.

    Args:
        arguments: parsed by a parser that `declare` prepared.

    Raises:
        ConfigError: a malformed `--set`, or a setting beside `--resume`.
        UserError: a file or run folder cannot be read.
    """
    asked = {
        path: value
        for path, value in vars(arguments).items()
        if path in arguments.settings or path.startswith("options.")
    }
    for text in arguments.set:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set needs GROUP.NAME=VALUE, not {text!r}")
        asked[path] = value
    file = read_yaml(arguments.config) if arguments.config else {}
    tree = merge(file, nested(asked))
    if arguments.resume is None:
        return tree
    if tree:
        raise ConfigError(f"--resume takes the run's own settings; leave out {', '.join(tree)}")
    return RunFolder.open(arguments.resume).config | {"out": arguments.resume}


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings from a YAML file.

    Raises:
        UserError: it cannot be read or holds no mapping.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"config {os.fspath(path)!r} cannot be read: {on_one_line(error)}."
        ) from error
    if not isinstance(tree, dict):
        raise UserError(f"config {os.fspath(path)!r} must hold a mapping of settings.")
    return tree
