"""Run a study: methods x settings x seeds, and one table of results.

The file, or the name of one in the folder studies, names out, methods, seeds and, if wanted, base,
settings, evaluate and profiles. Finished cells are never run again; the same command goes on with a
study that was interrupted.
"""

from __future__ import annotations

import argparse
import sys

from darts.errors import UserError
from darts.study import markdown, read_study, run_on_ray, run_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and where to run."""
    parser.add_argument("file", metavar="STUDY", help="a file, or a name such as table1")
    parser.add_argument("--profile", default="", help="which of the file's profiles to run")
    parser.add_argument("--device", default="", help="of all searches, instead of the file's")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="searches at a time, on one GPU too [1]; Ray decides itself",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="time for all of it; what runs then is saved and stopped, to go on another time",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a Ray cluster; without an address on one of this machine alone",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run what is left and print the table."""
    if arguments.workers < 1:
        raise UserError(f"workers={arguments.workers} must be at least 1.")
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise UserError(f"minutes={arguments.minutes:g} must be above 0.")
    if arguments.minutes is not None and arguments.ray is not None:
        raise UserError("--minutes is for this machine; a Ray cluster has limits of its own.")
    study = read_study(arguments.file, arguments.profile, arguments.device)
    results = run_study(
        study,
        workers=arguments.workers if arguments.ray is None else len(study.cells),
        report=lambda line: print(line, file=sys.stderr, flush=True),
        run=None if arguments.ray is None else run_on_ray(arguments.ray),
        minutes=arguments.minutes,
    )
    print(markdown(results), end="")
    return 0
