"""Whole loops of EDD and PCD on the DARTS space (chaoji90/PCDEDD, PCDEDD-DARTS)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from bench.parity.harness import against, double_precision, importing
from bench.parity.loops import SILENT, Meter, read, report, search_like, walk
from darts.data import Batch

LAYERS = 3
SPACE = "darts-without-none"


def compare(peers: Path, method: str, path: str) -> Iterator[tuple[str, float]]:
    """Their network, architect and steps against a search with the same weights and α."""
    args = SimpleNamespace(
        **{"momentum": 0.9, "weight_decay": 3e-4, "learning_rate": 0.025, "report_freq": 1},
        **{"arch_learning_rate": 3e-4, "arch_weight_decay": 0, "grad_clip": 5, "unrolled": False},
    )
    meters = SimpleNamespace(
        AvgrageMeter=Meter, accuracy=lambda *_, **__: (torch.zeros(1), torch.zeros(1))
    )
    script = read(peers / path, "train", utils=meters, args=args, logging=SILENT)
    with double_precision(), importing(peers / "PCDEDD-DARTS"):
        models = importlib.import_module("model_search_cyc")
        architects = importlib.import_module("architect_cyc")
        torch.manual_seed(0)
        peer = models.Network(4, 10, LAYERS, torch.nn.CrossEntropyLoss())
        cells = [
            part
            for i in range(LAYERS)
            for part in (f".cells.{i}.preprocess.", f".cells.{i}.edges.")
        ]
        search = search_like(
            list(peer.parameters()),
            [".stem.", *cells, "classifier"],
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


@against("PCDEDD", "edd")
def edd(peers: Path) -> Iterator[tuple[str, float]]:
    """The schedule by entropy."""
    yield from compare(peers, "edd", "PCDEDD-DARTS/train_search_pl.py")


@against("PCDEDD", "pcd on the DARTS space")
def pcd(peers: Path) -> Iterator[tuple[str, float]]:
    """The schedule in cycles."""
    yield from compare(peers, "pcd", "PCDEDD-DARTS/train_search_cyc.py")
