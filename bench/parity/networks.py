"""Comparisons through a whole supernet with the same weights: AutoDL-Projects, PC-DARTS."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.parity.harness import (
    against,
    definitions,
    gap,
    importing,
    make,
    on_double,
    pair,
    some_alpha,
)
from darts import build_supernet, get_space


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
