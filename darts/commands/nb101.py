"""A cell of NAS-Bench-101: its hash, its network's size, and what the benchmark's table says.

Of a search's folder the table also says what each epoch would have ended with.
"""

from __future__ import annotations

import argparse
import os

import torch

from darts.benchmark.nb101 import Table
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.networks.nb101 import to_graph
from darts.networks.network import build_network
from darts.networks.table import SKELETONS
from darts.results.run_folder import RunFolder
from darts.training.evaluation_config import parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The cell, and the table."""
    parser.add_argument(
        "arch", help="matrix and ops as JSON, or a file or run folder that has them"
    )
    parser.add_argument("--table", help="the benchmark's answers (.csv or .csv.gz)")


def run(arguments: argparse.Namespace) -> int:
    """Print what is known."""
    genotype = parse(arguments.arch)
    if not SKELETONS[genotype.skeleton].nodes:
        raise UserError(f"arch={str(genotype)!r} is not a cell of NAS-Bench-101.")
    table = Table.load(arguments.table) if arguments.table else None
    graph = to_graph(genotype.cells)
    with torch.device("meta"):
        net = build_network(genotype, channels=128, cells=3, classes=10)
    params = sum(p.numel() for p in net.parameters())
    print(f"{graph.pruned()}\nhash {graph.digest()}")
    print(
        f"{params / 1e6:.3f} M parameters in the benchmark's network (C=128, three cells a stack)"
    )
    if table:
        answer = table[graph]
        if answer.params != params:
            raise UserError(
                f"table={arguments.table!r} says that this cell's network has {answer.params} "
                f"parameters, and it has {params}: the table is of another benchmark."
            )
        print(f"valid {answer.valid:.2f} %, test {answer.test:.2f} %, {answer.seconds:.0f} s")
        print(f"rank {table.rank(graph)} of {len(table.answers)} by test accuracy")
        if os.path.isdir(arguments.arch):  # a text may be too long for a path
            _follow(RunFolder.open(arguments.arch), table)
    return 0


def _follow(run: RunFolder, table: Table) -> None:
    """What each epoch would have ended with, if the run is a search."""
    records = [record for record in run.records() if "genotype" in record]
    if records:
        print(f"{'epoch':>6}{'valid':>8}{'test':>8}{'rank':>8}")
    for record in records:
        graph = to_graph(Genotype.parse(record["genotype"]).cells)
        answer = table[graph]
        print(f"{record['epoch'] + 1:6}{answer.valid:8.2f}{answer.test:8.2f}{table.rank(graph):8}")
