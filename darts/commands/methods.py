"""List the search methods, or one method's settings and source."""

from __future__ import annotations

import argparse
import dataclasses
import inspect

import yaml

from darts.config import as_dict
from darts.methods import METHODS, get_method
from darts.recipes import configure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The method to describe."""
    parser.add_argument("name", nargs="?", help="a method's name")
    parser.add_argument("--space", default="nb201", help="space whose published values are shown")


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or one method's description, settings and published values."""
    if arguments.name is None:
        width = max(map(len, METHODS))
        for name, method in sorted(METHODS.items()):
            print(f"{name:{width}}  {method.summary}")
        return 0
    method = get_method(arguments.name)
    print(f"{method.name}: {method.summary}\n")
    print(inspect.getdoc(inspect.getmodule(method)) or "")
    fields = dataclasses.fields(method.Options)
    if fields:
        print("\nIts own settings:")
    for field in fields:
        flag = f"--{field.name.replace('_', '-')}"
        print(f"  {flag:24} {field.metadata['doc']} [{field.default}]")
    config = as_dict(configure(method=method.name, space=arguments.space))
    shown = {name: config[name] for name in ("recipe", "epochs", "data", "weights", "arch")}
    print(f"\nPublished values on {arguments.space}:")
    print(yaml.safe_dump(shown, sort_keys=False).rstrip())
    return 0
