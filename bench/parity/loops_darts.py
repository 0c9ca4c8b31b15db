"""Whole loops of EDD and PCD on the DARTS space (chaoji90/PCDEDD, PCDEDD-DARTS)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from bench.parity.epochs import METERS
from bench.parity.harness import against, double_precision, importing
from bench.parity.loops import SILENT, read, report, search_like, walk
from darts.data import Batch

LAYERS = 3
ORDER = [part for i in range(LAYERS) for part in (f".cells.{i}.preprocess.", f".cells.{i}.edges.")]
SPACE = "darts-without-none"


def arguments(**more: Any) -> SimpleNamespace:
    """What the scripts' command lines give."""
    return SimpleNamespace(
        **{"momentum": 0.9, "weight_decay": 3e-4, "learning_rate": 0.025, "report_freq": 1},
        **{"arch_learning_rate": 3e-4, "arch_weight_decay": 0, "grad_clip": 5, "unrolled": False},
        **more,
    )


def compare(peers: Path, method: str, path: str) -> Iterator[tuple[str, float]]:
    """Their network, architect and steps against a search with the same weights and α."""
    args = arguments()
    script = read(peers / path, "train", utils=METERS, args=args, logging=SILENT)
    with double_precision(), importing(peers / "PCDEDD-DARTS"):
        models = importlib.import_module("model_search_cyc")
        architects = importlib.import_module("architect_cyc")
        torch.manual_seed(0)
        peer = models.Network(4, 10, LAYERS, torch.nn.CrossEntropyLoss())
        search = search_like(
            list(peer.parameters()),
            [".stem.", *ORDER, "classifier"],
            peer.arch_parameters(),
            method=method,
            space=SPACE,
            supernet={"channels": 4, "cells": LAYERS},
        )
        architect = architects.Architect(peer, args)
        optimizer = torch.optim.SGD(
            peer.parameters(), args.learning_rate, args.momentum, weight_decay=args.weight_decay
        )
        nothing = SimpleNamespace(step=lambda: None)

        def step(weight: Batch, arch: Batch, state: dict[str, Any]) -> None:
            script.steps(
                [weight], [arch], peer, architect, F.cross_entropy, optimizer, args.learning_rate,
                nothing, state["new_temp"], state["warmup"], state["epoch"],
            )  # fmt: skip

        found = list(walk(script, step, peer, peer.arch_parameters(), search, 1, model=peer))
    yield from report(f"{Path(path).name} as released", found)


def compare_small(peers: Path, method: str, name: str, space: str) -> Iterator[tuple[str, float]]:
    """S1 to S4's script, network and architect, and what it reads from β at the end."""
    args = arguments(decay_strength=0.12 if method.startswith("edd") else 0.1, save="")
    path = peers / "SmoothDARTS/sota/pcdedd" / name
    script = read(path, "train", utils=METERS, args=args, logging=SILENT)
    with double_precision(), importing(peers / "SmoothDARTS"):
        # The script's own name for the folder is another than the release's.
        sys.modules["sota.cnnspp"] = importlib.import_module("sota.pcdedd")
        models = importlib.import_module("sota.pcdedd.model_search_cyc")
        spaces = importlib.import_module("sota.pcdedd.spaces").spaces_dict
        architects = importlib.import_module("optimizers.darts.architect_cyc")
        torch.manual_seed(0)
        peer = models.Network(4, 10, LAYERS, torch.nn.CrossEntropyLoss(), spaces[space])
        search = search_like(
            list(peer.parameters()),
            [".stem.", *ORDER, "classifier"],
            peer.arch_parameters(),
            method=method,
            space=space,
            supernet={"channels": 4, "cells": LAYERS},
        )
        architect = architects.Architect(peer, args)
        optimizer = torch.optim.SGD(
            peer.parameters(), args.learning_rate, args.momentum, weight_decay=args.weight_decay
        )
        last: dict[str, Any] = {}

        def step(weight: Batch, arch: Batch, state: dict[str, Any]) -> None:
            script.steps(
                [weight], [arch], peer, architect, F.cross_entropy, optimizer, args.learning_rate,
                None, 0, state["new_temp"],
            )  # fmt: skip
            last.update(state)

        alphas = peer.arch_parameters()
        found = list(walk(script, step, peer, alphas, search, 1, model=peer, args=args))
        yield from report(f"{path.name} on {space}", found)
        theirs = peer.genotype(last["new_temp"])
        ours = search.space.derive(search.method.scores())
        for cell in ("normal", "reduce"):
            chosen = [(c.operation, c.source) for c in ours.cell(cell)]
            yield (
                f"{path.name} on {space}: {cell} cell (0 = equal)",
                float(chosen != list(getattr(theirs, cell))),
            )


@against("PCDEDD", "edd-reference-code on S1 to S4")
def small(peers: Path) -> Iterator[tuple[str, float]]:
    """Two candidates an edge that differ, three with none."""
    for space in ("s1", "s2", "s3"):
        yield from compare_small(peers, "edd-reference-code", "train_search_pl.py", space)


@against("PCDEDD", "pcd-reference-code on S1 to S4")
def small_pcd(peers: Path) -> Iterator[tuple[str, float]]:
    """The same in cycles."""
    for space in ("s1", "s2", "s3"):
        yield from compare_small(peers, "pcd-reference-code", "train_search_cyc.py", space)


@against("PCDEDD", "edd")
def edd(peers: Path) -> Iterator[tuple[str, float]]:
    """The schedule by entropy."""
    yield from compare(peers, "edd", "PCDEDD-DARTS/train_search_pl.py")


@against("PCDEDD", "pcd on the DARTS space")
def pcd(peers: Path) -> Iterator[tuple[str, float]]:
    """The schedule in cycles."""
    yield from compare(peers, "pcd", "PCDEDD-DARTS/train_search_cyc.py")
