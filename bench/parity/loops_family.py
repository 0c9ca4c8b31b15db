"""Whole loops of the descendants of DARTS's script, on the DARTS space and S1."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from bench.parity.epochs import Queue, compare, cosine, report, train_function
from bench.parity.harness import against, double_precision, importing
from bench.parity.loops import search_like
from bench.parity.networks import old_inplace_signature
from darts import Search

LAYERS, CHANNELS = 3, 4
ARGS = {
    **{"momentum": 0.9, "weight_decay": 3e-4, "learning_rate": 0.025, "report_freq": 1e9},
    **{"arch_learning_rate": 3e-4, "arch_weight_decay": 1e-3, "grad_clip": 5, "unrolled": False},
    **{"save": "", "disable_cuda": True, "compute_hessian": False, "debug": False},
}
Loop = Callable[[Any, Any, Any, Any, float, int, Queue], None]
"""Their epoch: network, architect, optimizer, args, learning rate, epoch, queue."""


def side_by_side(
    what: str,
    peer: Any,
    architect: Callable[[Any, Any], Any],
    loop: Loop,
    method: str,
    space: str,
    args: Mapping[str, Any],
    *,
    epochs: int = 10,
    seed: bool = False,
    **settings: Any,
) -> Iterator[tuple[str, float]]:
    """Their network and loop against a search with the same weights and α."""
    of_alpha = peer.arch_parameters
    cells = [f".cells.{i}.{part}." for i in range(LAYERS) for part in ("preprocess", "edges")]
    search = search_like(
        list(peer.parameters()),
        [".stem.", *cells, "classifier"],
        of_alpha(),
        method=method,
        space=space,
        epochs=epochs,
        **{"supernet": {"channels": CHANNELS, "cells": LAYERS}} | settings,
    )
    options = SimpleNamespace(**args)
    optimizer = torch.optim.SGD(
        peer.parameters(), options.learning_rate, options.momentum,
        weight_decay=options.weight_decay,
    )  # fmt: skip
    theirs = architect(peer, options)

    def train(epoch: int, queue: Queue) -> None:
        last = args.get("learning_rate_min", 0.001)
        rate = cosine(options.learning_rate, last, epoch, epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loop(peer, theirs, optimizer, options, rate, epoch, queue)

    found = compare(peer, of_alpha, search, train, seed=same_draws(search) if seed else None)
    yield from report(what, found)


def same_draws(search: Search) -> Callable[[int], None]:
    """Set the global generator and the search's own to one state."""

    def set_seed(epoch: int) -> None:
        torch.manual_seed(epoch)
        search.method.generator.set_state(torch.get_rng_state())

    return set_seed


def criterion() -> nn.Module:
    """Theirs."""
    return nn.CrossEntropyLoss()


@against("PC-DARTS", "pc-darts loop")
def pc_darts(peers: Path) -> Iterator[tuple[str, float]]:
    """train_search.py: α rests for 15 epochs."""
    args = ARGS | {"learning_rate": 0.1, "learning_rate_min": 0.0, "arch_learning_rate": 6e-4}
    script = train_function(peers / "train_search.py", args=SimpleNamespace(**args))
    with double_precision(), importing(peers):
        network = importlib.import_module("model_search").Network
        architects = importlib.import_module("architect")
        torch.manual_seed(0)
        peer = network(CHANNELS, 10, LAYERS, criterion())

        def loop(
            peer: Any,
            architect: Any,
            optimizer: Any,
            options: Any,
            rate: float,
            epoch: int,
            queue: Queue,
        ) -> None:
            script(queue, queue.arch, peer, architect, criterion(), optimizer, rate, epoch)

        yield from side_by_side(
            "train_search.py", peer, architects.Architect, loop,
            "pc-darts", "darts", args, epochs=20,
        )  # fmt: skip


def smooth(
    peers: Path, what: str, method: str, attack: str, **settings: Any
) -> Iterator[tuple[str, float]]:
    """sota/cnn/train_search.py of SmoothDARTS, on S1 and on the DARTS space without none."""
    args = ARGS | {"learning_rate_min": 0.001, "epsilon_alpha": 0.3}
    script = train_function(peers / "sota/cnn/train_search.py", args=SimpleNamespace(**args))
    with double_precision(), importing(peers), old_inplace_signature():
        network = importlib.import_module("sota.cnn.model_search").Network
        spaces = importlib.import_module("sota.cnn.spaces").spaces_dict
        architects = importlib.import_module("optimizers.darts.architect")
        attacker = importlib.import_module("attacker.perturb")
        for space, name in (("s1", "s1"), ("darts-without-none", "s5")):
            torch.manual_seed(0)
            peer = network(CHANNELS, 10, LAYERS, criterion(), spaces[name])

            def loop(
                peer: Any,
                architect: Any,
                optimizer: Any,
                options: Any,
                rate: float,
                epoch: int,
                queue: Queue,
            ) -> None:
                epsilon = 0.03 + (options.epsilon_alpha - 0.03) * epoch / 10
                script(
                    queue, queue.arch, peer, architect, criterion(), optimizer, rate,
                    getattr(attacker, attack), epsilon,
                )  # fmt: skip

            yield from side_by_side(
                f"{what}, {space}", peer, architects.Architect, loop,
                method, space, args, seed=True, **settings,
            )  # fmt: skip


@against("SmoothDARTS", "sdarts-rs loop")
def sdarts_rs(peers: Path) -> Iterator[tuple[str, float]]:
    """Random perturbation."""
    yield from smooth(peers, "train_search.py random", "sdarts-rs", "Random_alpha")


@against("SmoothDARTS", "sdarts-adv loop")
def sdarts_adv(peers: Path) -> Iterator[tuple[str, float]]:
    """The attack."""
    yield from smooth(peers, "train_search.py pgd_linf", "sdarts-adv", "Linf_PGD_alpha")


@against("DARTS-", "darts-minus loop")
def darts_minus(peers: Path) -> Iterator[tuple[str, float]]:
    """src/search/train_search.py with its auxiliary skip and the linear decay."""
    args = ARGS | {"auxiliary_skip": True, "auxiliary_operation": "skip"}
    options = SimpleNamespace(**args)
    with double_precision(), importing(peers):
        utils = importlib.import_module("src.utils")
        # Their module of arguments reads the command line and makes folders.
        decay = utils.DecayScheduler(
            base_lr=1.0, T_max=10, T_start=0, T_stop=10, decay_type="linear"
        )
        sys.modules["src.search.args"] = cast(
            Any, SimpleNamespace(args=options, beta_decay_scheduler=decay)
        )
        network = importlib.import_module("src.search.model_search").Network
        spaces = importlib.import_module("src.spaces").spaces_dict
        architects = importlib.import_module("src.search.architect")
        script = train_function(
            peers / "src/search/train_search.py", args=options, beta_decay_scheduler=decay
        )
        for space in ("s1", "s3"):
            torch.manual_seed(0)
            peer = network(CHANNELS, 10, LAYERS, criterion(), spaces[space], args=options)

            def loop(
                peer: Any,
                architect: Any,
                optimizer: Any,
                options: Any,
                rate: float,
                epoch: int,
                queue: Queue,
            ) -> None:
                decay.step(epoch)
                script(
                    epoch, None, queue, queue.arch, peer, architect, criterion(), optimizer, rate,
                    None, None,
                )  # fmt: skip

            yield from side_by_side(
                f"train_search.py, {space}", peer, architects.Architect, loop,
                "darts-minus", space, args,
            )  # fmt: skip
