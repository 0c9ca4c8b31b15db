"""Look architectures up in NAS-Bench-201.

query ARCH   one architecture's accuracies, parameters and rank
top          the best architectures
import       make the compact table from the official NATS-Bench or NAS-Bench-201 files
"""

from __future__ import annotations

import argparse
from pathlib import Path

from darts.benchmark.nb201 import DATASETS, SIZE, TITLES, Table
from darts.benchmark.nb201_import import import_official
from darts.errors import UserError
from darts.training.evaluation_config import parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The three actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    query = actions.add_parser("query", help="one architecture")
    query.add_argument("arch", help="architecture string, or a file or run folder that holds it")
    top = actions.add_parser("top", help="the best architectures")
    top.add_argument("--count", type=int, default=10, help="how many [10]")
    top.add_argument("--dataset", default="cifar10", help=", ".join(DATASETS))
    top.add_argument("--on", default="test", metavar="valid|test", help="accuracy that ranks")
    for action in (query, top):
        action.add_argument("--table", required=True, help="the compact table (.csv or .csv.gz)")
    make = actions.add_parser("import", help="make the compact table")
    make.add_argument("source", help="NATS-tss folder, or NAS-Bench-201-*.pth")
    make.add_argument("target", help="table to write, .csv or .csv.gz")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the action."""
    if arguments.action == "import":
        rows = import_official(Path(arguments.source), Path(arguments.target))
        print(f"{arguments.target}: {rows} architectures")
        return 0
    table = Table.load(arguments.table)
    if arguments.action == "query":
        _query(table, str(parse(arguments.arch)))
    else:
        _top(table, arguments.count, arguments.dataset, arguments.on)
    return 0


def _query(table: Table, arch: str) -> None:
    row = table[arch]
    print(f"{arch}\n#{row.id}, {row.params / 1e6:.3f} M parameters on CIFAR-10")
    print(f"{'%':16}{'valid':>8}{'test':>8}{'rank':>7}{'optimum':>9}{'ResNet':>8}{'all-skip':>10}")
    for name in DATASETS:
        print(
            f"{TITLES[name]:16}{row.valid[name]:8.2f}{row.test[name]:8.2f}"
            f"{table.rank(arch, name):7d}{table.optimum(name).test[name]:9.2f}"
            f"{table.resnet.test[name]:8.2f}{table.all_skip.test[name]:10.2f}"
        )
    print(f"(optimum, ResNet and all-skip on test; ranks among {SIZE} by test accuracy)")


def _top(table: Table, count: int, dataset: str, split: str) -> None:
    if count < 1:
        raise UserError(f"count={count} must be at least 1.")
    best = table.top(count, dataset=dataset, split=split)
    print("  id " + "".join(f"{TITLES[name]:>16}" for name in DATASETS) + "  architecture")
    for row in best:
        values = "".join(f"{row.accuracy(name, split):16.2f}" for name in DATASETS)
        print(f"{row.id:5d}{values}  {row.arch}")
