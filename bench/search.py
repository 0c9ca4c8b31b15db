"""A whole EDD search against a whole DARTS search of AutoDL-Projects, epoch by epoch.

``python -m bench.search --peer PATH [--data FILE.npz]`` runs EDD-DARTS as users do (data,
schedule, evaluation, records and all) in float32 and in bfloat16. Within every epoch, between its
own steps, it runs steps of an unmodified checkout of AutoDL-Projects (DARTS, first order) of the
same network size and batch, so that both see the same machine. The peer's epoch is its median step
times the number of steps, and its validation of the supernet on the held-out half; what its data
costs is left out. The ratio is drawn against the entropy of β: the sharper β, the more operations
the weight step can leave out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.rivals import VALIDATION_BATCH, Peer, Size, peer
from bench.step import PRECISIONS
from bench.timing import RESULTS, machine, write_json
from darts import Callback, Search
from darts.config import Precision
from darts.recipes import configure

EPOCHS, EVERY = 20, 20
"""Epochs of a search; after how many of its steps the peer takes one."""
PLOT = Path("docs/images/search-speed.png")


class Alternating(Callback):
    """Runs the peer between the steps of a search, and times both."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.peer_times: list[float] = []
        self.epochs: list[dict[str, float]] = []

    def started(self, search: Search) -> None:
        """Start the clock."""
        self.begun = time.perf_counter()

    def stepped(self, search: Search, step: int, steps: int) -> None:
        """A step of the peer, now and then."""
        if step % EVERY == 0:
            start = time.perf_counter()
            self.peer.step()
            self.peer_times.append(time.perf_counter() - start)

    def epoch_ended(self, search: Search, record: dict[str, Any]) -> None:
        """One point of the picture."""
        seconds = time.perf_counter() - self.begun - sum(self.peer_times)
        start = time.perf_counter()
        self.peer.validation()
        batches = len(search.held_out.images) / VALIDATION_BATCH
        validation = (time.perf_counter() - start) * batches
        theirs = statistics.median(self.peer_times) * search.batches.steps + validation
        entropy = record["entropy"]
        self.epochs.append({"entropy": entropy, "seconds": seconds, "peer_seconds": theirs})
        print(
            f"{record['epoch'] + 1:3d}  H(β) {entropy:.3f}  {seconds:6.2f} s  "
            f"AutoDL {theirs:6.2f} s  {theirs / seconds:5.2f}x",
            flush=True,
        )
        self.peer_times.clear()
        self.begun = time.perf_counter()


def race(checkout: Path, data: str, precision: Precision, size: Size) -> dict[str, Any]:
    """One search; gives its epochs and the ratio over all of them."""
    alternating = Alternating(peer(checkout, size))
    config = configure(
        method="edd",
        epochs=EPOCHS,
        data={"source": data, "batch_size": size.batch},
        supernet={"channels": size.channels, "cells": size.cells, "precision": precision},
    )
    print(f"\n{precision}, C={size.channels}, N={size.cells}, batch {size.batch}")
    alternating.peer.step()
    Search(config, callbacks=[alternating]).run()
    ours = sum(epoch["seconds"] for epoch in alternating.epochs)
    theirs = sum(epoch["peer_seconds"] for epoch in alternating.epochs)
    print(f"whole search: {ours:.1f} s, AutoDL-Projects {theirs:.1f} s, {theirs / ours:.2f}x")
    return {"epochs": alternating.epochs, "ratio": theirs / ours}


def plot(searches: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Ratio of the epochs' times against the mean entropy of β."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for (name, search), colour in zip(searches.items(), ("#0b62a4", "#d1620a"), strict=False):
        epochs = search["epochs"]
        ratios = [epoch["peer_seconds"] / epoch["seconds"] for epoch in epochs]
        label = f"{name}, whole search {search['ratio']:.1f}x"
        axes.plot([e["entropy"] for e in epochs], ratios, "o-", color=colour, label=label, ms=3.5)
    axes.set(xlabel="mean entropy of β (nats)", ylabel="times faster than AutoDL-Projects")
    axes.set_ylim(0, None)
    axes.invert_xaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of AutoDL-Projects")
    parser.add_argument("--data", default="data/cifar10_subset.npz", help="an .npz file")
    parser.add_argument("--out", type=Path, default=RESULTS / "search.json")
    arguments = parser.parse_args()
    if not (arguments.peer / "xautodl").is_dir():
        parser.error(f"--peer {arguments.peer} has no xautodl folder")
    searches: dict[str, dict[str, Any]] = {
        precision: race(arguments.peer, arguments.data, precision, Size())
        for precision in PRECISIONS
    }
    report = {"searches": searches, "machine": machine(torch.device("cpu"))}
    write_json(arguments.out, report)
    plot(searches, PLOT)
    print(f"\nwritten to {arguments.out} and {PLOT}")


if __name__ == "__main__":
    main()
