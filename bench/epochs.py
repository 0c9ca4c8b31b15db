"""Searches of NAS-Bench-201 beside each other, epoch by epoch.

    python -m bench.epochs LABEL=LOG [LABEL=LOG ...] [--json PATH]

A LOG is the `log.jsonl` of a search of `nb201` that knew the benchmark (`--nb201`). Writes what was
found and how β was shared out, and draws beside the JSON: the accuracy of the cell that an epoch
would end with, that of the network pruned to it, the share of β that `none` and `skip_connect`
have, and the temperature.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from bench.timing import RESULTS, write_json
from darts.results.figures import PALETTE
from darts.spaces import NB201

OPERATIONS = NB201.cells["cell"].candidates[0]
PANELS = {
    "cifar10": "found cell by the benchmark, CIFAR-10 test %",
    "pruned": "network pruned to it, held-out %",
    "parameterless": "share of none and skip_connect",
    "temperature": "temperature",
}

Epoch = Mapping[str, Any]


def epoch_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of one line of a log; shares are means over the edges.

    Raises:
        SystemExit: it is no search of nb201, or one that did not know the benchmark.
    """
    beta = record["weights"].get("cell", [[]])
    if "nb201" not in record or len(beta[0]) != len(OPERATIONS):
        raise SystemExit(f"a log must be of a search of {NB201.name} with --nb201")
    shares = [sum(edge[i] for edge in beta) / len(beta) for i in range(len(OPERATIONS))]
    found = {
        "epoch": record["epoch"],
        "temperature": record["temperature"],
        "entropy": record["entropy"],
        "weight_loss": record["weight_loss"],
        "weight_accuracy": record["weight_accuracy"],
        "arch_accuracy": record.get("arch_accuracy"),  # none where α rested
        "pruned": record["discrete_accuracy"],
        "cifar10": record["nb201"]["cifar10"],
    }
    rounded = {n: float(f"{value:.5g}") for n, value in found.items() if value is not None}
    share = {name: round(s, 4) for name, s in zip(OPERATIONS, shares, strict=True)}
    return {**rounded, "epoch": record["epoch"], "share": share, "genotype": record["genotype"]}


def draw(searches: Mapping[str, Sequence[Epoch]], path: Path) -> None:
    """One panel a quantity, one line a search, over the epochs."""
    figure, axes = plt.subplots(len(PANELS), 1, figsize=(7, 9.5), sharex=True)
    for place, (label, epochs) in enumerate(searches.items()):
        at = [e["epoch"] + 1 for e in epochs]
        for axis, name in zip(axes, PANELS, strict=True):
            values = [
                e["share"]["none"] + e["share"]["skip_connect"]
                if name == "parameterless"
                else e[name]
                for e in epochs
            ]
            axis.plot(at, values, color=PALETTE[place % len(PALETTE)], label=label, linewidth=1.2)
    for axis, title in zip(axes, PANELS.values(), strict=True):
        axis.set_title(title, loc="left", fontsize=9)
    axes[-1].set_yscale("log")
    axes[0].legend(fontsize=8)
    axes[-1].set_xlabel("epoch")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read, write, draw."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.epochs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("logs", nargs="+", metavar="LABEL=LOG")
    parser.add_argument("--json", type=Path, default=RESULTS / "epochs.json")
    options = parser.parse_args()
    searches = {}
    for given in options.logs:
        label, _, path = given.partition("=")
        lines = Path(path).read_text().splitlines()
        searches[label] = [epoch_of(json.loads(line)) for line in lines]
    write_json(options.json, {"searches": searches})
    draw(searches, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
