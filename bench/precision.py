"""The gradient of α in bfloat16 and float32 against float64, from one state of a search.

    python -m bench.precision --source SET.npz [--channels 16] [--cells 5] [--batch-size 64]

A search takes some steps at t = 1; then each temperature's gradient of α is computed on the same
arch batches in every precision, by softmax alone and with st ≡ 1. A line gives, over the batches
together, the relative error and the cosine, the same for each operation's column, and in how
many of the entries of `none` and `skip_connect` the sign is another.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.timing import RESULTS, machine, write_json
from darts import Search, configure
from darts.data import Batch
from darts.supernet.step import cross_entropy, frozen
from snsoftmax import sn_softmax

TEMPERATURES = (1.0, 0.0085, 0.002)
PRECISIONS: Mapping[str, tuple[torch.dtype, torch.dtype | None]] = {
    "float64": (torch.float64, None),
    "float32": (torch.float32, None),
    "bfloat16": (torch.float32, torch.bfloat16),
}
"""Name → dtype of parameters, dtype of autocast."""


def gradients(
    search: Search, batches: Sequence[Batch], temperature: float, smooth: float | None
) -> Iterator[tuple[str, Tensor]]:
    """Each precision's gradients of α, float64 [batches, edges, operations]."""
    for name, (dtype, autocast) in PRECISIONS.items():
        net = copy.deepcopy(search.net).to(dtype).train()
        alpha = search.method.logits["cell"].detach().to(dtype).requires_grad_()
        found = []
        for batch in batches:
            beta = sn_softmax(alpha, temperature, scale=None, smooth_temperature=smooth)
            part = batch.images.to(dtype), batch.labels
            with frozen(net):
                loss, _ = cross_entropy(net, part, {"cell": beta}, precision=autocast)
                found.append(torch.autograd.grad(loss, alpha)[0].double())
        yield name, torch.stack(found)


def compared(got: Tensor, exact: Tensor, operations: Sequence[str]) -> dict[str, float]:
    """The figures of one line."""

    def error(a: Tensor, b: Tensor) -> float:
        return float((a - b).norm() / b.norm())

    row = {
        "error": error(got, exact),
        "cosine": float(torch.cosine_similarity(got.flatten(), exact.flatten(), 0)),
    }
    for column, operation in enumerate(operations):
        a, b = got[..., column], exact[..., column]
        row[f"error {operation}"] = error(a, b)
        if operation in ("none", "skip_connect"):
            row[f"other sign {operation}"] = float((a.sign() != b.sign()).double().mean())
    return row


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--source", default="digits")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of the search before")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    search = Search(
        configure(
            method="edd",
            data={"source": options.source, "batch_size": options.batch_size},
            supernet={"channels": options.channels, "cells": options.cells},
        )
    )
    search.net.train()
    pairs = pairs_of(search)
    for _ in range(options.steps):
        search.step(*next(pairs))
    batches = [next(pairs)[1] for _ in range(options.batches)]
    operations = search.space.cells["cell"].candidates[0]
    rows = []
    for smooth in (None, 1.0):
        for temperature in TEMPERATURES:
            found = dict(gradients(search, batches, temperature, smooth))
            for name in ("float32", "bfloat16"):
                row = compared(found[name], found["float64"], operations)
                which = "softmax" if smooth is None else "st = 1"
                rows.append({"precision": name, "t": temperature, "softmax": which, **row})
                print(rows[-1], flush=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    settings["source"] = Path(options.source).name  # not where it lies on this machine
    write_json(options.out, {**machine(torch.device("cpu")), **settings, "rows": rows})


def pairs_of(search: Search) -> Iterator[tuple[Batch, Batch]]:
    """Pairs of batches, epoch after epoch."""
    while True:
        yield from search.batches.epoch()


if __name__ == "__main__":
    main()
