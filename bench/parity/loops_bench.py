"""Whole loops on NAS-Bench-201 of the other methods, by their own scripts for it.

Where a script's clip covers α too, a second row runs without a clip on either side, so that
everything else is seen.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Dirichlet

from bench.parity.epochs import METERS, Queue, Together, compare, cosine, report, train_function
from bench.parity.harness import against, double_precision, importing
from bench.parity.loops import SILENT, Meter, search_like
from bench.parity.loops_family import same_draws
from bench.parity.networks import old_inplace_signature
from darts import Search, get_space

ARGS: dict[str, Any] = {
    **{"momentum": 0.9, "weight_decay": 3e-4, "learning_rate": 0.025, "report_freq": 1e9},
    **{"arch_learning_rate": 3e-4, "arch_weight_decay": 1e-3, "grad_clip": 5, "unrolled": False},
    **{"learning_rate_min": 0.001, "save": "", "fast": False, "method": "darts"},
    **{"reg_type": "l2", "reg_scale": 1e-3, "epsilon_alpha": 0.3},
}
UNCLIPPED = 1e30
NAMES = list(get_space("nb201").cells["cell"].candidates[0])
Rows = Iterator[tuple[str, float]]
Epoch = Callable[[Any, torch.optim.Optimizer, float, int, Queue], None]
"""Their epoch: what moves α, the optimizer of ω, its rate, the epoch's number, the images."""


def side_by_side(
    what: str,
    peer: Any,
    alpha: Tensor,
    of_alpha: Any,
    loop: Epoch,
    method: str,
    *,
    epochs: int = 10,
    args: Mapping[str, Any] = ARGS,
    nesterov: bool = False,
    queue: type[Queue] = Queue,
    prepare: Callable[[Search], None] = lambda search: None,
    seed: bool = False,
    **settings: Any,
) -> Rows:
    """Their network and loop against a search with the same weights and α."""
    weights = {
        n: p
        for n, p in peer.named_parameters()
        if p is not alpha and not (".edges." in n and n.endswith("bias"))
    }
    search = search_like(
        list(weights.values()),
        [".stem.", *(f".cells.{i}." for i in range(5)), ".last.", "classifier"],
        [alpha],
        method=method,
        epochs=epochs,
        **{"supernet": {"channels": 4, "cells": 1}} | settings,
    )
    prepare(search)
    optimizer = torch.optim.SGD(
        [p for p in peer.parameters() if p is not alpha],
        args["learning_rate"],
        args["momentum"],
        weight_decay=args["weight_decay"],
        nesterov=nesterov,
    )

    def train(epoch: int, images: Queue) -> None:
        rate = cosine(args["learning_rate"], args["learning_rate_min"], epoch, epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loop(of_alpha, optimizer, rate, epoch, images)

    draws = same_draws(search) if seed else None
    yield from report(what, compare(peer, lambda: [alpha], search, train, queue, draws))


def clips() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """What the row says, their arguments and our settings."""
    yield "joint clip against ω's", ARGS, {}
    yield "without a clip", ARGS | {"grad_clip": UNCLIPPED}, {"weights": {"clip": 0}}


@against("SmoothDARTS", "sdarts-rs loop on nb201")
def sdarts(peers: Path) -> Rows:
    """nasbench201/train_search.py of SmoothDARTS, random perturbation."""
    yield from of_smooth(peers, "sdarts-rs", "Random_alpha")


@against("SmoothDARTS", "sdarts-adv loop on nb201")
def sdarts_adv(peers: Path) -> Rows:
    """The attack."""
    yield from of_smooth(peers, "sdarts-adv", "Linf_PGD_alpha")


@against("Beta-DARTS", "beta-darts loop")
def beta_darts(peers: Path) -> Rows:
    """The decay, which is 50·epoch/100 in the code; SDARTS's loop otherwise."""
    yield from of_smooth(peers, "beta-darts", "", options={"decay": 5.0})


def of_smooth(peers: Path, method: str, attack: str, **settings: Any) -> Rows:
    """The loop that SmoothDARTS and its descendants have."""
    with double_precision(), importing(peers), old_inplace_signature():
        network = importlib.import_module("nasbench201.model").Network
        architects = importlib.import_module("optimizers.darts.architect")
        attacker = importlib.import_module("attacker.perturb")

        def one(label: str, args: dict[str, Any], ours: dict[str, Any]) -> Rows:
            options = SimpleNamespace(**args)
            script = train_function(peers / "nasbench201/train_search.py", args=options)
            torch.manual_seed(0)
            peer = network(4, 1, 4, 10, nn.CrossEntropyLoss(), NAMES)

            def loop(architect: Any, optimizer: Any, rate: float, epoch: int, queue: Queue) -> None:
                epsilon = 0.03 + (options.epsilon_alpha - 0.03) * epoch / 10
                extra = (epoch,) if method == "beta-darts" else ()
                script(
                    queue, queue.arch, peer, architect, nn.CrossEntropyLoss(), optimizer, rate,
                    getattr(attacker, attack, None), epsilon, *extra,
                )  # fmt: skip

            yield from side_by_side(
                f"nasbench201/train_search.py, {label}", peer, peer.arch_parameters()[0],
                architects.Architect(peer, options), loop, method, args=args,
                seed=True, **ours, **settings,
            )  # fmt: skip

        for variant in clips():
            yield from one(*variant)


@against("DrNAS", "drnas loop")
def drnas(peers: Path) -> Rows:
    """201-space/train_search.py, with its gradient through the sample on both sides."""
    with double_precision(), importing(peers / "201-space", peers):
        network = importlib.import_module("search_model").TinyNetwork
        architects = importlib.import_module("architect")

        def one(label: str, args: dict[str, Any], ours: dict[str, Any]) -> Rows:
            options = SimpleNamespace(**args)
            script = train_function(peers / "201-space/train_search.py", args=options)
            torch.manual_seed(0)
            peer = network(
                4, 1, 4, 10, nn.CrossEntropyLoss(), NAMES, k=1, species="dirichlet",
                reg_type="l2", reg_scale=1e-3,
            )  # fmt: skip

            def loop(architect: Any, optimizer: Any, rate: float, epoch: int, queue: Queue) -> None:
                script(
                    queue, queue.arch, peer, architect, nn.CrossEntropyLoss(), optimizer, rate,
                    epoch,
                )  # fmt: skip

            def theirs(search: Search) -> None:
                search.method.sample = lambda cell, c: Dirichlet(c).rsample()  # type: ignore[attr-defined]

            yield from side_by_side(
                f"201-space/train_search.py, {label}", peer, peer.arch_parameters()[0],
                architects.Architect(peer, options), loop, "drnas", args=args,
                prepare=theirs, seed=True, **ours,
            )  # fmt: skip

        for variant in clips():
            yield from one(*variant)


@against("darts-pt", "darts-pt loop")
def darts_pt(peers: Path) -> Rows:
    """nasbench201/train_search.py until the selection; its clip covers ω."""
    options = SimpleNamespace(**ARGS)
    meters = SimpleNamespace(
        AvgrageMeter=Meter, accuracy=lambda *_, **__: (torch.zeros(1), torch.zeros(1))
    )
    path = peers / "nasbench201/train_search.py"
    script = train_function(path, args=options, ig_utils=meters)
    with double_precision(), importing(peers):
        network = importlib.import_module("nasbench201.search_model_darts").TinyNetworkDarts
        architects = importlib.import_module("nasbench201.architect_ig")
        torch.manual_seed(0)
        peer = network(4, 1, 4, 10, nn.CrossEntropyLoss(), NAMES, options)

        def loop(architect: Any, optimizer: Any, rate: float, epoch: int, queue: Queue) -> None:
            peer.optimizer = optimizer
            script(queue, queue.arch, peer, architect, optimizer, rate, epoch)

        def search_only(search: Search) -> None:
            search.method.end_epoch = lambda trainer: None  # type: ignore[method-assign]
            type(search.method).epochs = property(lambda self: self.config.epochs)  # type: ignore[assignment,method-assign]

        yield from side_by_side(
            "nasbench201/train_search.py", peer, peer.arch_parameters()[0],
            architects.Architect(peer, options), loop, "darts-pt", prepare=search_only,
        )  # fmt: skip


def autodl(peers: Path, method: str, algo: str, **settings: Any) -> Rows:
    """exps/NATS-algos/search-cell.py, which has no clip."""
    meters = {"AverageMeter": Meter, "time_string": str, "time": SimpleNamespace(time=lambda: 0.0)}
    script = train_function(
        peers / "exps/NATS-algos/search-cell.py", "search_func", **meters,
        obtain_accuracy=lambda *_, **__: (torch.zeros(1), torch.zeros(1)),
    )  # fmt: skip
    args = ARGS | {"weight_decay": 5e-4}
    with double_precision(), importing(peers):
        module = importlib.import_module("xautodl.models.cell_searchs.generic_model")
        cells = importlib.import_module("xautodl.models.cell_searchs.search_cells")
        cell = cells.NAS201SearchCell
        source = inspect.getsource(cell.forward_gdas).replace("else weights[_ie]", "else 0")
        without: dict[str, Any] = {}
        exec(textwrap.dedent(source), without)
        cell.forward_gdas = without["forward_gdas"]
        torch.manual_seed(0)
        peer = module.GenericNAS201Model(4, 1, 4, 10, NAMES, False, True)
        peer.set_algo(algo)
        peer.lastact[0] = nn.BatchNorm2d(16)  # affine, as ours is
        # As it was when the script was written: zeros, not None, for what was not drawn.
        for parameter in peer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        peer.zero_grad = partial(peer.zero_grad, set_to_none=False)
        scheduler = SimpleNamespace(update=lambda *_: None)

        def loop(adam: Any, optimizer: Any, rate: float, epoch: int, queue: Queue) -> None:
            if algo == "gdas":
                peer.set_tau(10 - (10 - 0.1) * epoch / 9)
            script(
                queue, peer, F.cross_entropy, scheduler, optimizer, adam, "", 1e9, algo, SILENT
            )  # fmt: skip

        alpha = peer.alphas[0]
        adam = torch.optim.Adam([alpha], lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        yield from side_by_side(
            "NATS-algos/search-cell.py", peer, alpha, adam, loop, method, args=args, queue=Together,
            nesterov=True, seed=True, weights={"clip": 0}, **settings,
        )  # fmt: skip


@against("AutoDL-Projects", "darts-v1 loop")
def darts_v1(peers: Path) -> Rows:
    """First order."""
    yield from autodl(peers, "darts-v1", "darts-v1")


@against("AutoDL-Projects", "gdas loop")
def gdas(peers: Path) -> Rows:
    """Sampling, without the gradient of operations that were not drawn."""
    yield from autodl(peers, "gdas", "gdas")


@against("gaea_release", "gaea-bilevel loop")
def gaea(peers: Path) -> Rows:
    """cnn/train_search.py and its architect.

    Its NAS-Bench-201 network needs a fork of AutoDL-Projects that is not public; AutoDL-Projects'
    cells stand in.
    """
    search = SimpleNamespace(
        **{"learn_edges": False, "trace_norm": None, "arch_learning_rate": 0.1, "gd": False},
        **{"edge_learning_rate": 0.0, "arch_grad_clip": None, "adapt_lr": False},
        **{"arch_weight_decay": 0.0, "search_space": "nas-bench-201", "single_level": False},
        **{"unrolled": False, "discrete": False},
    )
    trained = SimpleNamespace(auxiliary=False, grad_clip=5)
    options = SimpleNamespace(search=search, train=trained, run=SimpleNamespace(report_freq=1e9))
    script = train_function(peers / "cnn/train_search.py", train_utils=METERS)
    with double_precision(), importing(peers / "cnn", peers.parent / "AutoDL-Projects"):
        cells = importlib.import_module("xautodl.models.cell_searchs.generic_model")
        architects = importlib.import_module("architect.architect_edarts")
        torch.manual_seed(0)

        class Network(cells.GenericNAS201Model):  # type: ignore[misc,name-defined]
            """What the architect asks of a network."""

            search_reduce_cell, n_inputs, _nodes, _num_ops = False, 1, 3, 5

            def set_alphas(self, alphas: Any) -> None:
                self.alphas_of = alphas

            def set_edge_weights(self, edges: Any) -> None:
                self.edges = edges

            @property
            def alphas(self) -> Any:
                return self.alphas_of

            def normalize_archp(self) -> Any:
                return self.alphas["normal"], None, None, ""

            def forward(self, images: Tensor, discrete: bool = False) -> tuple[Tensor, None]:
                return super().forward(images)[1], None

            def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
                return F.cross_entropy(self(images)[0], labels)

        peer = Network(4, 1, 4, 10, NAMES, False, True)
        peer.lastact[0] = nn.BatchNorm2d(16)
        peer.op_names = NAMES
        del peer.arch_parameters
        peer.set_cal_mode("joint")
        writer = SimpleNamespace(add_scalar=lambda *_: None)
        architect = architects.ArchitectEDARTS(peer, options, writer)

        def loop(architect: Any, optimizer: Any, rate: float, epoch: int, queue: Queue) -> None:
            rate = cosine(0.025, 0.001, epoch, 20)  # scheduler_epochs is twice the epochs
            for group in optimizer.param_groups:
                group["lr"] = rate
            script(
                options, queue, None, peer, architect, F.cross_entropy, optimizer, rate
            )  # fmt: skip

        yield from side_by_side(
            "cnn/train_search.py", peer, architect.alphas["normal"], architect, loop,
            "gaea-bilevel", queue=Together,
        )  # fmt: skip
