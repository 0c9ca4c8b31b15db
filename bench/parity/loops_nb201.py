"""Whole loops of EDD, PCD and LPCD on NAS-Bench-201 (chaoji90/PCDEDD)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.parity.harness import against, double_precision, importing
from bench.parity.loops import SILENT, Meter, read, report, search_like, walk
from darts import get_space
from darts.data import Batch

LIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "as released": ("", {"smooth_temperature": 1}),
    "softmax": ("", {"smooth_temperature": 0}),
    "st = 1": ("#alphas_smooth=torch.nn.functional.softmax(network.module.arch_parameters,dim=-1)",
               {"smooth_temperature": 1}),
    "s = 100": ("#alphas_smooth=torch.nn.functional.softmax(network.module.arch_parameters/"
                "(softmax_temp*100),dim=-1)", {"scale": 100, "smooth_temperature": None}),
}  # fmt: skip
"""Variant → the line of the script that is commented out in the release, the options here."""


class Wrapped(nn.Module):
    """Stands for DataParallel."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        """The network's."""
        return self.module(*args)


def compare(
    peers: Path, method: str, path: str, variant: str, joint: bool
) -> Iterator[tuple[str, float]]:
    """Their network and steps against a search with the same weights and α."""
    live, options = LIVE[variant]
    script = read(
        peers / path,
        "search_func",
        live,
        time=SimpleNamespace(time=lambda: 0.0),
        AverageMeter=Meter,
        time_string=str,
        obtain_accuracy=lambda *_, **__: (torch.zeros(1), torch.zeros(1)),
    )
    with double_precision(), importing(peers / "AutoDL-Projects_edd/lib"):
        models = importlib.import_module("models.cell_searchs.search_model_darts")
        torch.manual_seed(0)
        names = list(get_space("nb201").cells["cell"].candidates[0])
        peer = models.TinyNetworkDarts(4, 1, 4, 10, names, False, True)
        search = search_like(
            [
                p
                for n, p in peer.named_parameters()
                if n != "arch_parameters" and not (".edges." in n and n.endswith("bias"))
            ],
            [".stem.", *(f".cells.{i}." for i in range(5)), ".last.", "classifier"],
            peer.get_alphas(),
            method=method,
            supernet={"channels": 4, "cells": 1},
            options=options | {"joint_clip": joint},
        )
        of_weights = torch.optim.SGD(
            peer.get_weights(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        of_alpha = torch.optim.Adam(peer.get_alphas(), lr=3e-4, betas=(0.5, 0.999))
        nothing = SimpleNamespace(update=lambda *_: None)

        def step(weight: Batch, arch: Batch, state: dict[str, Any]) -> None:
            script.steps(
                [[*weight, *arch]], Wrapped(peer), F.cross_entropy, nothing, of_weights, of_alpha,
                "", 1, SILENT, 5, state["warmup"], state["epoch"], state["new_temp"],
            )  # fmt: skip

        found = list(walk(script, step, peer, peer.get_alphas(), search, 2, search_model=peer))
    yield from report(f"{Path(path).name} {variant}, {'joint' if joint else 'ω'} clip", found)


@against("PCDEDD", "edd-reference-code")
def edd(peers: Path) -> Iterator[tuple[str, float]]:
    """Both scripts as released, then with each smooth line that they hold commented out."""
    tens, hundreds = (f"AutoDL-Projects_edd/exps/algos/DARTS-V1-{n}.py" for n in (10, 100))
    for path, variant, joint in (
        (tens, "softmax", True),
        (hundreds, "softmax", True),
        (hundreds, "st = 1", True),
        (hundreds, "s = 100", True),
        (tens, "softmax", False),
    ):
        yield from compare(peers, "edd-reference-code", path, variant, joint)


@against("PCDEDD", "pcd")
def pcd(peers: Path) -> Iterator[tuple[str, float]]:
    """The script as released, whose smooth term is live."""
    path = "AutoDL-Projects_pcd/exps/algos/DARTS-V1-10.py"
    yield from compare(peers, "pcd", path, "as released", joint=True)


@against("PCDEDD", "lpcd")
def lpcd(peers: Path) -> Iterator[tuple[str, float]]:
    """The script with linear steps."""
    path = "AutoDL-Projects_pcd/exps/algos/DARTS-V1-10l.py"
    yield from compare(peers, "lpcd", path, "as released", joint=True)
