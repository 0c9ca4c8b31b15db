"""The command line: `python -m darts COMMAND`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import darts.commands
from darts.config import nearest
from darts.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status (2 when something the user gave is wrong).

    Of the processes that `torchrun` starts, the first alone speaks.
    """
    parser = argparse.ArgumentParser(
        prog="darts", description="Differentiable architecture search on one fast supernet."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(darts.commands.__path__):
        command = importlib.import_module(f"darts.commands.{module.name}")
        summary, _, detail = (command.__doc__ or "").partition("\n")
        sub = subparsers.add_parser(
            module.name,
            help=summary,
            description=summary + detail,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, options=tuple(sub._option_string_actions))
    chosen, unknown = parser.parse_known_args(arguments)
    speaks = os.environ.get("RANK", "0") == "0"
    with open(os.devnull, "w") as nowhere:
        try:
            if unknown:
                name, known = unknown[0].partition("=")[0], dict.fromkeys(chosen.options)
                raise UserError(f"unknown argument {name!r}{nearest(name, known)}")
            with contextlib.redirect_stdout(sys.stdout if speaks else nowhere):
                return int(chosen.run(chosen))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr if speaks else nowhere)
            return 2
