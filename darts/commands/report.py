"""Write one self-contained HTML page about one or more searches, or a study's.

Needs no network, neither to write nor to read. With --figures, every figure is also written as PNG
and SVG.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from darts.results.report import write_figures, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, and where to write."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folder of a search, or a folder of them",
    )
    parser.add_argument("--out", type=Path, help="the page [report.html in the first run folder]")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also write figures there")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and print its path."""
    print(write_report(arguments.runs, arguments.out or arguments.runs[0] / "report.html"))
    if arguments.figures:
        for path in write_figures(arguments.runs, arguments.figures):
            print(path)
    return 0
