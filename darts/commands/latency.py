"""Measure what each operation of a space takes on this device, for a search under --max-latency.

Every operation is timed at every shape that it has in the network, in evaluation mode, beside whole
networks whose sums say how far the table can be trusted. The file is what --latency-table takes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch

from darts.budgets.latency import measure
from darts.budgets.within import cheapest, dearest
from darts.config import BudgetConfig, ConfigError
from darts.devices.device import check_device
from darts.spaces import get_space
from darts.training.evaluation_config import bounded_sizes

QUIET = 0.8, 1.6
"""Between which the factor of a quiet machine lies."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The network, the device and the file."""
    parser.add_argument("--space", default="nb201", help="search space, or MODULE:NAME [nb201]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--shape", default="3x32x32", help="of an image [3x32x32]")
    parser.add_argument("--channels", type=int, help="of the network [those that evaluate takes]")
    parser.add_argument("--cells", type=int, help="of the network [those that evaluate takes]")
    parser.add_argument("--classes", type=int, default=10, help="of the images [10]")
    parser.add_argument("--batch", type=int, default=1, help="pictures at a time [1]")
    parser.add_argument("--rounds", type=int, default=50, help="times that each is run [50]")
    parser.add_argument(
        "--networks", type=int, default=8, help="whole ones for the factor, and for its check [8]"
    )
    parser.add_argument("--threads", type=int, help="of the CPU [PyTorch's own number]")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the file, print the check."""
    check_device(arguments.device)
    for name in ("channels", "cells", "classes", "batch", "rounds", "networks", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    shape = re.fullmatch(r"(\d+)x(\d+)x(\d+)", arguments.shape)
    if not shape or min(map(int, shape.groups())) < 1:
        raise ConfigError(
            f"shape must be colours x height x width, such as 3x32x32, not {arguments.shape!r}"
        )
    colours, height, width = map(int, shape.groups())
    space = get_space(arguments.space)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    asked = BudgetConfig(channels=arguments.channels or 0, cells=arguments.cells or 0)
    sizes = bounded_sizes(space, asked, arguments.classes, (colours, height, width))
    table = measure(
        space,
        sizes,
        arguments.device,
        batch=arguments.batch,
        rounds=arguments.rounds,
        networks=arguments.networks,
    )
    table.save(arguments.out)
    where = table.where
    print(
        f"{space.name}, C={sizes.channels}, N={sizes.cells}, {arguments.shape}, batch "
        f"{table.batch} on {where['device']} ({where['name']}), {where['threads']} threads: "
        f"{len(table.times)} entries"
    )
    for row in table.check:
        print(
            f"predicted {row['predicted']:.3f} ms  measured {row['measured']:.3f} ms  "
            f"{row['genotype']}"
        )
    print(
        f"sum times {table.factor:.3f}, from {len(table.check)} other networks; "
        f"median error {table.error:.1f} %"
    )
    if not QUIET[0] <= table.factor <= QUIET[1]:
        print("that is far from 1: other work on the machine? measure again where it is quiet")
    costs = table.costs(space, sizes)
    for word, extreme in (("smallest", cheapest), ("largest", dearest)):
        genotype = extreme(space, costs)
        print(f"{word} {costs.of(space, genotype):.3f} ms  {genotype}")
    print(arguments.out)
    return 0
