"""Comparisons of whole loops: authors' own steps beside the search's, one state, float64."""

from __future__ import annotations

import ast
import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.parity.harness import against, gap, importing
from darts import Search, configure, get_space
from darts.data import Batch, load

LIVE = {
    "as released": ("", {"sn": "st=1"}),
    "softmax": ("", {"sn": "off"}),
    "st = 1": ("#alphas_smooth=torch.nn.functional.softmax(network.module.arch_parameters,dim=-1)",
               {"sn": "st=1"}),
    "s = 100": ("#alphas_smooth=torch.nn.functional.softmax(network.module.arch_parameters/"
                "(softmax_temp*100),dim=-1)", {"sn": "s=100"}),
}  # fmt: skip
"""Variant → the line of the script that is commented out in the release, the options here."""
EPOCHS, STEPS = 50, 2


class Meter:
    """Stands for their AverageMeter."""

    avg = val = 0.0

    def update(self, *_: Any) -> None:
        """Count nothing."""


class Wrapped(nn.Module):
    """Stands for DataParallel."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        """The network's."""
        return self.module(*args)


def script(path: Path, live: str) -> tuple[Any, Any, Any]:
    """`search_func`, the schedule's constants and its rule, with one commented line live."""
    text = path.read_text()
    if live:
        assert text.count(live) == 1, f"{path.name} has no line {live}"
        text = text.replace(live, live[1:]).replace(
            "#alphas_smooth.backward(outgrad)", "alphas_smooth.backward(outgrad)"
        )
    tree = ast.parse(text)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    epochs = next(n for n in functions["main"].body if isinstance(n, ast.For))
    rule = next(n for n in epochs.body if isinstance(n, ast.If))
    before = functions["main"].body[: functions["main"].body.index(epochs)]
    first = next(i for i, n in enumerate(before) if ast.unparse(n).startswith("softmax_temp ="))
    space: dict[str, Any] = {
        "torch": torch,
        "math": math,
        "time": SimpleNamespace(time=lambda: 0.0),
        "AverageMeter": Meter,
        "time_string": str,
        "obtain_accuracy": lambda *_, **__: (torch.zeros(1), torch.zeros(1)),
    }
    exec(compile(ast.Module([functions["search_func"]], []), str(path), "exec"), space)
    constants, each_epoch = (
        compile(ast.Module(part, []), str(path), "exec")
        for part in (before[first:], list[ast.stmt]([rule]))
    )
    return space["search_func"], constants, each_epoch


def twins(peers: Path, method: str, options: dict[str, Any]) -> tuple[Any, Search]:
    """Their network, and a search whose own has the same weights and α."""
    names = list(get_space("nb201").cells["cell"].candidates[0])
    with importing(peers / "AutoDL-Projects_edd/lib"):
        models = importlib.import_module("models.cell_searchs.search_model_darts")
        torch.manual_seed(0)
        peer = models.TinyNetworkDarts(4, 1, 4, 10, names, False, True)
    config = configure(
        method=method,
        epochs=EPOCHS,
        data={"source": "digits", "batch_size": 8},
        supernet={"channels": 4, "cells": 1},
        options=options,
    )
    search = Search(config, images=load("digits"))
    theirs = [
        p
        for n, p in peer.named_parameters()
        if n != "arch_parameters" and not (".edges." in n and n.endswith("bias"))
    ]
    views = {n: v for n, v in search.net.conventional_views().items() if "running" not in n}
    cells = sorted((n for n in views if ".cells." in n), key=lambda n: int(n.split(".")[2]))
    ends = [[n for n in views if part in n] for part in (".stem.", ".last.", "classifier")]
    with torch.no_grad():
        for name, tensor in zip([*ends[0], *cells, *ends[1], *ends[2]], theirs, strict=True):
            views[name].copy_(tensor)
        search.method.logits["cell"].copy_(peer.arch_parameters)
    return peer, search


def batch(seed: int) -> Batch:
    """Eight random images with labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    return Batch(images, torch.randint(10, (8,), generator=generator))


def entropy(p: Any, axis: int) -> Any:
    """As scipy.stats.entropy."""
    return -torch.xlogy(torch.from_numpy(p), torch.from_numpy(p)).sum(axis).numpy()


def variances(net: nn.Module) -> Tensor:
    """The sum of all running variances, which does not depend on how they are stored.

    Means do depend: their convolutions have a bias before each normalisation, which moves the mean
    and nothing else.
    """
    found = [b.sum() for name, b in net.named_buffers() if name.endswith("var")]
    return torch.stack(found).sum()


def loop(path: Path, peer: Any, search: Search, live: str) -> Iterator[tuple[float, ...]]:
    """Largest differences of t, α and ω after each step of every epoch."""
    search_func, constants, rule = script(path, live)
    network = Wrapped(peer)
    of_weights = torch.optim.SGD(
        peer.get_weights(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    of_alpha = torch.optim.Adam(peer.get_alphas(), lr=3e-4, betas=(0.5, 0.999))
    silent = SimpleNamespace(log=lambda *_: None)
    state: dict[str, Any] = {
        "torch": torch,
        "math": math,
        "entropy": entropy,
        "search_model": peer,
    }
    exec(constants, state)
    search.net.train()
    for epoch in range(EPOCHS):
        state["epoch"] = epoch
        exec(rule, state)
        search.method.begin_epoch(epoch)
        of_t = abs(float(search.method.temperature) / state["new_temp"] - 1)
        for step in range(STEPS):
            pair = [batch(2 * (STEPS * epoch + step) + i) for i in range(2)]
            parts = [x for b in pair for x in b]
            search_func(
                [parts], network, F.cross_entropy, SimpleNamespace(update=lambda *_: None),
                of_weights, of_alpha, "", 1, silent, 5, state["warmup"], epoch, state["new_temp"],
            )  # fmt: skip
            search.step(pair[0], pair[1])
            stem = next(iter(search.net.parameters())), next(iter(peer.get_weights()))
            yield (
                of_t,
                gap(search.method.logits["cell"], peer.arch_parameters),
                gap(*stem),
                gap(variances(search.net) / variances(peer), 1.0),
            )


def compare(
    peers: Path, method: str, path: str, variant: str, joint: bool
) -> Iterator[tuple[str, float]]:
    """What parts, and where first by more than 1e-6."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        live, options = LIVE[variant]
        peer, search = twins(peers, method, options | {"joint_clip": joint})
        found = list(loop(peers / path, peer, search, live))
    finally:
        torch.set_default_dtype(before)
    parted = next((i for i, row in enumerate(found) if max(row) > 1e-6), None)
    where = "" if parted is None else f", parted at epoch {parted // STEPS} step {parted % STEPS}"
    which = "joint clip" if joint else "ω's clip"
    for what, column in zip(
        ("t", "α", "ω", "running variances"), zip(*found, strict=True), strict=True
    ):
        yield (
            f"{Path(path).name} {variant}, {which}: {what} over {EPOCHS} epochs{where}",
            max(column),
        )


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
