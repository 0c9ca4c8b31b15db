"""Comparisons of rules: losses, updates, schedules, decisions."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.parity.harness import (
    against,
    definitions,
    definitions_of_method,
    gap,
    importing,
    linear_step,
    make,
    on_double,
    some_alpha,
)


@against("DrNAS", "drnas")
def drnas(peers: Path) -> Iterator[tuple[str, float]]:
    """The divergence and the distribution's mean."""
    code = definitions(peers / "utils.py", "process_step_vector", "process_step_matrix")
    method = on_double(make("drnas", options={"kl": 1.0}), some_alpha())
    torch.manual_seed(0)
    alpha = method.logits["cell"]
    many = [code.process_step_matrix(alpha.detach(), "dirichlet", None) for _ in range(20_000)]
    with torch.no_grad():
        mine = [method.weights()["cell"] for _ in range(20_000)]
    yield "mean of 20,000 samples", gap(torch.stack(many).mean(0), torch.stack(mine).mean(0))
    yield "their spread", gap(torch.stack(many).std(0), torch.stack(mine).std(0))
    q = torch.distributions.Dirichlet(F.elu(alpha) + 1)
    p = torch.distributions.Dirichlet(torch.ones_like(alpha))
    theirs = torch.distributions.kl_divergence(q, p).sum()
    ours = method.arch_objective(linear_step(torch.zeros(6, 5)).arch_loss)
    yield "divergence (their formula)", gap(theirs, ours)


@against("gaea_release", "gaea-bilevel")
def gaea(peers: Path) -> Iterator[tuple[str, float]]:
    """`ArchitectEDARTS.step` on a loss that is linear in β."""
    with importing(peers / "cnn"):
        architect = importlib.import_module("architect.architect_edarts")
    c = some_alpha()

    class Model:
        search_reduce_cell, _nodes, _num_ops, n_inputs = False, 3, 5, 1
        op_names = ("a", "b", "c", "d", "e")
        alphas: Any = None
        edges: Any = None

        def set_alphas(self, alphas: Any) -> None:
            self.alphas = alphas

        def set_edge_weights(self, edges: Any) -> None:
            self.edges = edges

        def zero_grad(self) -> None:
            pass

        def _loss(self, images: Any, labels: Any) -> Tensor:
            loss: Tensor = (self.alphas["normal"] * c).sum()
            return loss

    search = SimpleNamespace(
        learn_edges=False,
        trace_norm=None,
        arch_learning_rate=0.1,
        edge_learning_rate=0.0,
        arch_grad_clip=None,
        adapt_lr=False,
        arch_weight_decay=0.0,
        gd=False,
    )
    writer = SimpleNamespace(add_scalar=lambda *a: None)
    peer = architect.ArchitectEDARTS(Model(), SimpleNamespace(search=search), writer)
    method = make("gaea-bilevel")
    yield "initial β", gap(peer.alphas["normal"], method.probabilities()["cell"])
    for _ in range(100):
        peer.step(None, None, None, None, None)
        method.arch_step(linear_step(c))
    yield "β after 100 updates", gap(peer.alphas["normal"], method.probabilities()["cell"])


@against("SmoothDARTS", "sdarts-adv")
def sdarts_adv(peers: Path) -> Iterator[tuple[str, float]]:
    """`Linf_PGD_alpha` on a quadratic loss, from the same start."""
    with importing(peers):
        try:
            attack = importlib.import_module("attacker.perturb").Linf_PGD_alpha
        except ImportError:  # `required` of torch.optim is gone
            sys.modules["attacker.linf_sgd"] = types.ModuleType("attacker.linf_sgd")
            sys.modules["attacker.linf_sgd"].Linf_SGD = SignAscent  # type: ignore[attr-defined]
            attack = importlib.import_module("attacker.perturb").Linf_PGD_alpha
    clip = definitions_of_method(peers / "sota/cnn/model_search.py", "Network", "clip")
    target = torch.softmax(some_alpha().flip(0), -1)
    start = torch.softmax(some_alpha(), -1)
    beta = start.clone().requires_grad_()

    class Model:
        training = True

        def eval(self) -> None:
            pass

        train = zero_grad = eval

        def arch_parameters(self) -> list[Tensor]:
            return [beta]

        def _loss(self, x: Any, y: Any, updateType: str) -> Tensor:
            return (beta - target).square().sum()

        def clip(self) -> None:
            with torch.no_grad():
                clip(self)

    method = make("sdarts-adv", epochs=50)
    method.begin_epoch(20)
    torch.manual_seed(3)
    attack(Model(), None, None, method.radius())
    method.generator.set_state(torch.Generator().manual_seed(3).get_state())
    found = method.attack(
        {"cell": start}, lambda w, skip=False: (w["cell"] - target).square().sum()
    )
    yield "attacked β", gap(beta, found["cell"])


class SignAscent(torch.optim.SGD):
    """What SmoothDARTS's Linf_SGD does without momentum: descent along the gradient's sign."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move by lr·sign(gradient)."""
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(group["lr"] * p.grad.sign())


@against("Beta-DARTS", "beta-darts")
def beta_darts(peers: Path) -> Iterator[tuple[str, float]]:
    """`mlc_loss` with its weight."""
    mlc_loss = definitions_of_method(
        peers / "optimizers/darts/architect.py", "Architect", "mlc_loss"
    )
    method = make("beta-darts")
    with torch.no_grad():
        method.logits["cell"].copy_(some_alpha())
    method.begin_epoch(37)
    ours = method.arch_objective(linear_step(torch.zeros(6, 5)).arch_loss)
    yield "penalty in epoch 37", gap(50 * 37 / 100 * mlc_loss(None, some_alpha()), ours)


@against("sgas", "sgas")
def sgas(peers: Path) -> Iterator[tuple[str, float]]:
    """`edge_decision`, both criteria, on the DARTS space's edges."""
    from torch.distributions import categorical

    utils = definitions(peers / "cnn/utils.py", "normalize", "histogram_intersection")
    code = definitions(
        peers / "cnn/train_search.py",
        "histogram_average",
        "edge_decision",
        utils=utils,
        cate=categorical,
        logging=SimpleNamespace(info=lambda *a: None),
        score_image=lambda *a: None,
        print=lambda *a: None,
    )
    for history in (False, True):
        method = make("sgas", space="darts", options={"history": history})
        model = SimpleNamespace(check_edges=lambda flags, chosen, reduction: (flags, chosen))
        flags, chosen = torch.ones(14, dtype=torch.bool), -torch.ones(14, dtype=torch.int)
        args = SimpleNamespace(
            use_history=history, history_size=4, warmup_dec_epoch=9, decision_freq=5
        )
        past: list[Tensor] = []
        for epoch in range(10):
            alpha = some_alpha(14, 8).roll(epoch, 0) * (1 + epoch)
            for cell in method.logits:
                with torch.no_grad():
                    method.logits[cell].copy_(alpha)
            method.begin_epoch(epoch)
            method.end_epoch(None)
            rows = [row.clone().requires_grad_() for row in alpha]
            _, chosen, flags = code.edge_decision(
                "normal", rows, chosen, flags, past, epoch, model, args
            )
        mine = torch.tensor(method.fixed["normal"])
        decided = mine >= 0
        yield (
            f"decision, criterion {1 + history} (0 = equal)",
            gap(torch.where(decided, mine, -1), chosen.long()),
        )


@against("FairDARTS", "fair-darts")
def fair_darts(peers: Path) -> Iterator[tuple[str, float]]:
    """`ConvSeparateLoss`."""
    with importing(peers / "fairdarts"):
        module = importlib.import_module("separate_loss")
    method = make("fair-darts")
    with torch.no_grad():
        method.logits["cell"].copy_(some_alpha())
    logits, labels = torch.randn(8, 10), torch.arange(8)
    theirs, *_ = module.ConvSeparateLoss(weight=10.0)(logits, labels, some_alpha().sigmoid())
    ours = method.arch_objective(lambda w: F.cross_entropy(logits, labels))
    yield "loss", gap(theirs, ours)


@against("DARTS-", "darts-minus")
def darts_minus(peers: Path) -> Iterator[tuple[str, float]]:
    """`DecayScheduler`, linear."""
    code = definitions(peers / "src/utils.py", "singleton", "DecayScheduler", functools=functools)
    scheduler = code.DecayScheduler(
        base_lr=1.0, T_max=50, T_start=0, T_stop=50, decay_type="linear"
    )
    method = make("darts-minus")
    gaps = []
    for epoch in range(50):
        scheduler.step(epoch)
        method.begin_epoch(epoch)
        gaps.append(gap(scheduler.decay_rate, method.auxiliary_weight()))
    yield "auxiliary weight in 50 epochs", max(gaps)


@against("RobustDARTS", "darts-es")
def darts_es(peers: Path) -> Iterator[tuple[str, float]]:
    """`EVLocalAvg` on random walks of eigenvalues."""
    code = definitions(peers / "src/utils.py", "EVLocalAvg")
    wrong = 0
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        values = (0.3 * torch.randn(25, generator=g)).cumsum(0).exp().tolist()
        peer = code.EVLocalAvg(window=5, ev_freq=2, total_epochs=50)
        method = make("darts-es")
        method.curvature = lambda trainer, values=values, method=method: values[method.epoch // 2]
        stops: list[tuple[int, int] | None] = [None, None]
        for epoch in range(0, 48, 2):
            peer.update(epoch, values[epoch // 2], epoch)
            if len(peer.ev) >= 3:
                peer.early_stop(epoch, 1.3, 10, 4)
            method.begin_epoch(epoch)
            with torch.no_grad():
                method.logits["cell"].fill_(epoch)
            method.end_epoch(None)
            if peer.stop_search and stops[0] is None:
                stops[0] = (epoch, peer.stop_epoch)
            if method.finished and stops[1] is None:
                stops[1] = (epoch, int(method.logits["cell"][0, 0]))
            if all(stops):
                break
        wrong += stops[0] != stops[1]
    yield "stopping epochs of 200 walks that differ", float(wrong)
