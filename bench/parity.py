"""Compare methods with the public code of their authors, imported unmodified from checkouts.

    python bench/parity.py PEERS

PEERS is a folder with checkouts under their repository names (those that are absent are skipped and
named): AutoDL-Projects, DrNAS, gaea_release, PC-DARTS, SmoothDARTS, Beta-DARTS, sgas, FairDARTS,
DARTS-, RobustDARTS. Each line says what was compared on the same α, seed and weights, and the
largest absolute difference. Nothing needs a GPU: `.cuda()` is made to do nothing.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import math
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darts import build_supernet, configure, get_space
from darts.methods import get_method

CHECKS: dict[str, tuple[str, Callable[[Path], Iterator[tuple[str, float]]]]] = {}
"""Method → (checkout, comparison)."""


def against(checkout: str, method: str) -> Callable[[Any], Any]:
    """Enter a comparison under the method's name."""

    def enter(check: Any) -> Any:
        CHECKS[method] = (checkout, check)
        return check

    return enter


@contextmanager
def importing(*folders: Path) -> Iterator[None]:
    """Make the folders' modules importable, and forget them afterwards."""
    before, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - modules:
            if not name.startswith(("torch", "numpy", "darts", "snsoftmax")):
                del sys.modules[name]


def definitions(path: Path, *names: str, **globals_: Any) -> types.SimpleNamespace:
    """Functions and classes of a script that cannot be imported as a whole."""
    tree = ast.parse(path.read_text().replace("async=", "non_blocking="))  # a keyword since 3.7
    wanted = [node for node in tree.body if getattr(node, "name", None) in names]
    space: dict[str, Any] = {"torch": torch, "np": np, "F": F, "math": math, **globals_}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in names})


def gap(a: Tensor | float, b: Tensor | float) -> float:
    """Largest absolute difference."""
    a, b = (x.detach() if isinstance(x, Tensor) else torch.tensor(x) for x in (a, b))
    return float((a - b).abs().max())


def make(name: str, space: str = "nb201", **overrides: Any) -> Any:
    """A method with its published settings."""
    return get_method(name)(get_space(space), configure(method=name, space=space, **overrides))


def some_alpha(edges: int = 6, operations: int = 5) -> Tensor:
    """Logits of the size that they have late in a search."""
    return 0.5 * torch.randn(edges, operations, generator=torch.Generator().manual_seed(1))


def linear_step(coefficients: Tensor) -> Any:
    """A step whose loss is linear in β with known coefficients."""

    def loss(weights: Any, *, skip: bool = False) -> Tensor:
        value: Tensor = sum((b * coefficients).sum() for b in weights.values())  # type: ignore[assignment]
        return value

    return SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=loss)


def twins(peers: Path) -> tuple[Any, Any, Any]:
    """AutoDL-Projects' supernet, ours with the same weights, and its module, in float64."""
    model_module = importlib.import_module("xautodl.models.cell_searchs.generic_model")
    names = list(get_space("nb201").cells["cell"].candidates[0])
    torch.manual_seed(0)
    peer = model_module.GenericNAS201Model(4, 1, 4, 10, names, False, True).double()
    net: Any = build_supernet(get_space("nb201"), channels=4, cells=1, classes=10)
    net.skeleton.last[0] = torch.nn.BatchNorm2d(16, affine=False)  # as theirs is in a search
    net = net.double()
    theirs = [
        p
        for n, p in peer.named_parameters()
        if n != "arch_parameters" and not (".edges." in n and n.endswith("bias"))
    ]
    views = {
        n: v
        for n, v in net.conventional_views().items()
        if "running" not in n and ".last." not in n
    }
    place = {n: tuple(int(t) if t.isdigit() else t for t in n.split(".")) for n in views}
    cells = sorted((n for n in views if ".cells." in n), key=lambda n: (place[n][2],))
    order = [n for n in views if ".stem." in n] + cells + [n for n in views if "classifier" in n]
    for name, tensor in zip(order, theirs, strict=True):
        views[name].data.copy_(tensor.data)
    return peer, net, model_module


def pair(seed: int) -> tuple[Tensor, Tensor]:
    """Four random images with labels."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 16, 16, generator=g, dtype=torch.float64)
    return images, torch.randint(10, (4,), generator=g)


def on_double(method: Any, alpha: Tensor) -> Any:
    """The method with α in float64."""
    method.logits = {"cell": alpha.double().requires_grad_()}
    method.optimizer = method.make_optimizer()
    return method


def supernet_step(net: Any, train: Any, valid: Any, optimizer: Any = None) -> Any:
    """A step on the real supernet."""

    def loss(weights: Any, *, skip: bool = False) -> Tensor:
        return F.cross_entropy(net(valid[0], weights), valid[1])

    return SimpleNamespace(
        net=net, weight_batch=train, arch_batch=valid, arch_loss=loss, optimizer=optimizer
    )


@against("AutoDL-Projects", "darts-v1")
def darts_v1(peers: Path) -> Iterator[tuple[str, float]]:
    """The joint mode."""
    with importing(peers):
        peer, net, _ = twins(peers)
    peer.set_cal_mode("joint")
    method = on_double(make("darts-v1"), some_alpha())
    peer.arch_parameters.data.copy_(method.logits["cell"])
    images, labels = pair(1)
    loss = F.cross_entropy(peer(images)[1], labels)
    ours = F.cross_entropy(net(images, method.weights()), labels)
    yield "loss", gap(loss, ours)
    (gradient,) = torch.autograd.grad(loss, [peer.arch_parameters])
    (mine,) = method.arch_gradients(supernet_step(net, None, (images, labels)))
    yield "gradient of α", gap(gradient, mine)
    adam = torch.optim.Adam([peer.arch_parameters], lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    peer.arch_parameters.grad = gradient
    adam.step()
    method.arch_update([mine])
    yield "α after one update", gap(peer.arch_parameters, method.logits["cell"])


@against("AutoDL-Projects", "darts-v2")
def darts_v2(peers: Path) -> Iterator[tuple[str, float]]:
    """`backward_step_unrolled`."""
    script = peers / "exps/NATS-algos/search-cell.py"
    names = ("_concat", "_hessian_vector_product", "backward_step_unrolled")
    code = definitions(script, *names, deepcopy=deepcopy)
    with importing(peers):
        peer, net, _ = twins(peers)
    peer.set_cal_mode("joint")
    method = on_double(make("darts-v2"), some_alpha())
    peer.arch_parameters.data.copy_(method.logits["cell"])
    train, valid = pair(2), pair(1)
    sgd: dict[str, Any] = {"lr": 0.025, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
    optimizer = torch.optim.SGD(peer.weights, **sgd)
    with old_inplace_signature():
        code.backward_step_unrolled(peer, torch.nn.CrossEntropyLoss(), *train, optimizer, *valid)
    mine = torch.optim.SGD(net.parameters(), **sgd)
    (gradient,) = method.arch_gradients(supernet_step(net, train, valid, mine))
    yield "second-order gradient of α", gap(peer.arch_parameters.grad, gradient)


@contextmanager
def old_inplace_signature() -> Iterator[None]:
    """Bring back `tensor.add_(scalar, tensor)`, which recent PyTorch has removed."""
    add, sub = Tensor.add_, Tensor.sub_

    def swapped(method: Any) -> Any:
        def call(self: Tensor, *arguments: Any, **named: Any) -> Any:
            if len(arguments) == 2:
                return method(self, arguments[1], alpha=float(arguments[0]))
            return method(self, *arguments, **named)

        return call

    Tensor.add_, Tensor.sub_ = swapped(add), swapped(sub)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.add_, Tensor.sub_ = add, sub  # type: ignore[method-assign]


@against("AutoDL-Projects", "gdas")
def gdas(peers: Path) -> Iterator[tuple[str, float]]:
    """The gdas mode, with the same Gumbel noise."""
    with importing(peers):
        peer, net, _ = twins(peers)
    peer.set_cal_mode("gdas")
    method = on_double(make("gdas"), some_alpha())
    peer.arch_parameters.data.copy_(method.logits["cell"])
    method.set_temperature(3.0)
    peer.set_tau(3.0)
    images, labels = pair(1)
    torch.manual_seed(5)
    beta = peer.normalize_archp()[0]
    torch.manual_seed(5)
    method.generator.set_state(torch.get_rng_state())
    yield "sampled β", gap(beta, method.weights()["cell"])
    torch.manual_seed(5)
    loss = F.cross_entropy(peer(images)[1], labels)
    method.generator.set_state(torch.Generator().manual_seed(5).get_state())
    yield "loss", gap(loss, F.cross_entropy(net(images, method.weights()), labels))
    method.generator.set_state(torch.Generator().manual_seed(5).get_state())
    (gradient,) = torch.autograd.grad(loss, [peer.arch_parameters])
    (mine,) = method.arch_gradients(supernet_step(net, None, (images, labels)))
    yield "gradient of α (their zeros count; see docs/methods.md)", gap(gradient, mine)


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


@against("PC-DARTS", "pc-darts")
def pc_darts(peers: Path) -> Iterator[tuple[str, float]]:
    """The whole supernet of the DARTS space."""
    with importing(peers):
        module = importlib.import_module("model_search")
        torch.manual_seed(0)
        peer = module.Network(4, 10, 3, torch.nn.CrossEntropyLoss()).double()
    method = make("pc-darts", space="darts")
    for name in ("normal", "reduce"):
        alpha, edges = some_alpha(14, 8), some_alpha(14, 1)[:, 0]
        getattr(peer, f"alphas_{name}").data = alpha.double()
        getattr(peer, f"betas_{name}").data = edges.double()
        method.logits[name] = alpha.double().requires_grad_()
        method.edge_logits[name] = edges.double().requires_grad_()
    net = build_supernet(
        get_space("darts"), channels=4, cells=3, classes=10, **method.supernet_options()
    ).double()
    views = {n: v for n, v in net.conventional_views().items() if "running" not in n}
    theirs = dict(peer.named_parameters())
    for name, view in views.items():
        view.data.copy_(theirs[pc_name(name)].data)
    images, labels = pair(1)
    loss = peer._loss(images, labels)
    ours = F.cross_entropy(net(images, method.weights()), labels)
    yield "loss", gap(loss, ours)
    alphas = [getattr(peer, f"{k}_{n}") for k in ("alphas", "betas") for n in ("normal", "reduce")]
    gradients = torch.autograd.grad(loss, alphas)
    mine = method.arch_gradients(supernet_step(net, None, (images, labels)))
    yield "gradient of α", max(gap(a, b) for a, b in zip(gradients[:2], mine[:2], strict=True))
    yield "gradient of edges", max(gap(a, b) for a, b in zip(gradients[2:], mine[2:], strict=True))
    chosen = method.space.derive(method.scores())
    found = peer.genotype()
    same = [(c.operation, c.source) for c in chosen.cell("normal")] == list(found.normal)
    yield "genotype (0 = equal)", float(not same)


def pc_name(name: str) -> str:
    """Our conventional name → PC-DARTS's, whose operations are one flat sequence `op`."""
    name = name.removeprefix("skeleton.")
    name = re.sub(r"preprocess\.(\d)\.(\d)", r"preprocess\1.op.\2", name)
    name = re.sub(r"preprocess\.(\d)\.conv", r"preprocess\1.conv", name)
    name = re.sub(r"edges\.(\d+)\.(\d)\.", r"_ops.\1._ops.\2.", name)
    separable = re.search(r"_ops\.[45]\.([01])\.([12])\.weight$", name)
    if separable:
        place = 4 * int(separable[1]) + int(separable[2])
        return name[: separable.start(1)] + f"op.{place}.weight"
    return re.sub(r"(_ops\.[67]\.)([12])\.weight$", r"\1op.\2.weight", name)


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


def definitions_of_method(path: Path, cls: str, name: str) -> Any:
    """One method of a class as a function."""
    tree = ast.parse(path.read_text())
    body = next(n for n in tree.body if getattr(n, "name", None) == cls).body  # type: ignore[attr-defined]
    function = next(n for n in body if getattr(n, "name", None) == name)
    space: dict[str, Any] = {"torch": torch, "F": F, "np": np, "math": math}
    exec(compile(ast.Module([function], []), str(path), "exec"), space)
    return space[name]


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


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore", category=UserWarning, module="search-cell")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peers", type=Path)
    folder = parser.parse_args().peers
    Tensor.cuda = lambda self, *a, **k: self  # type: ignore[method-assign]
    torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[method-assign]
    print("| method | against | compared | largest difference |\n| --- | --- | --- | --- |")
    for method, (checkout, check) in CHECKS.items():
        path = folder / checkout
        if not path.is_dir():
            print(f"| {method} | {checkout} | absent | - |")
            continue
        for what, difference in check(path):
            print(f"| {method} | {checkout} | {what} | {difference:.1e} |")


if __name__ == "__main__":
    main()
