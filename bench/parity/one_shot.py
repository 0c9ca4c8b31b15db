"""NAS-Bench-1Shot1's spaces against automl/nasbench-1shot1, through a whole supernet."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.parity.harness import against, definitions, gap, importing, make, pair
from bench.parity.networks import supernet_step
from darts import build_supernet, get_space
from darts.networks.nb101 import to_graph

COLUMNS = [1, 2, 0]
"""Where ours are among their operations."""
BACK = [2, 0, 1]
"""Where theirs are among ours."""


@contextmanager
def without_packages() -> Iterator[None]:
    """Stand-ins for packages that their modules import, and that a supernet does not need."""
    stands = {name: ModuleType(name) for name in ("nasbench", "ConfigSpace", "networkx", "seaborn")}
    stands["nasbench"].api = SimpleNamespace(NASBench=object)  # type: ignore[attr-defined]
    stands["seaborn"].set_style = lambda style: None  # type: ignore[attr-defined]
    sys.modules |= stands
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in stands:
            del sys.modules[name]


def twins(peers: Path, number: int) -> tuple[Any, Any]:
    """Their supernet, and ours with the same weights and pooling, in float64."""
    torch.manual_seed(0)
    with without_packages(), importing(peers):
        search = importlib.import_module("optimizers.darts.model_search")
        folder = "nasbench_analysis.search_spaces.search_space_"
        space = getattr(importlib.import_module(f"{folder}{number}"), f"SearchSpace{number}")()
        steps = space.num_intermediate_nodes
        peer = search.Network(5, 10, 3, nn.CrossEntropyLoss(), True, space, steps).double()
    net: Any = build_supernet(f"1shot1-{number}", channels=5, cells=1, classes=10).double()
    for place, module in enumerate(net.skeleton.cells):
        if isinstance(module, nn.MaxPool2d):
            net.skeleton.cells[place] = nn.MaxPool2d(2, 2, padding=1)  # as theirs pads
    cells = [cell for cell in net.skeleton.cells if not isinstance(cell, nn.MaxPool2d)]
    modules = [(peer.stem, net.skeleton.stem), (peer.postprocess, net.skeleton.last)]
    modules += [(peer.classifier, net.skeleton.classifier)]
    for theirs, ours in zip(peer.cells, cells, strict=True):
        modules += list(zip(theirs._input_projections, ours.projections, strict=True))
        for block, candidates in zip(theirs._choice_blocks, ours.candidates, strict=True):
            modules += [
                (block.mixed_op._ops[column], candidate)
                for column, candidate in zip(COLUMNS, candidates, strict=True)
            ]
    for theirs, ours in modules:
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            q.data.copy_(p.data)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in peer.parameters())
    return peer, net


def in_their_order(tables: Mapping[str, Tensor]) -> list[Tensor]:
    """α's tables, or their gradients, as their network has them: operations, output, inputs."""
    nodes, *inputs, output = tables.values()
    return [nodes.detach()[:, BACK], output.detach(), *(table.detach() for table in inputs)]


def compared(peers: Path, number: int) -> Iterator[tuple[str, float]]:
    """One space."""
    peer, net = twins(peers, number)
    method = make("darts-v1", space=f"1shot1-{number}")
    generator = torch.Generator().manual_seed(1)
    method.logits = {
        name: torch.randn(a.shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, a in method.logits.items()
    }
    method.optimizer = method.make_optimizer()
    alphas = peer.arch_parameters()
    for alpha, ours in zip(alphas, in_their_order(method.logits), strict=True):
        alpha.data = ours.clone()
    images, labels = pair(1)
    loss = peer._loss(images, labels)
    yield "loss", gap(loss, F.cross_entropy(net(images, method.weights()), labels))
    gradients = torch.autograd.grad(loss, alphas)
    own = method.arch_gradients(supernet_step(net, None, (images, labels)))
    tables = dict(zip(method.logits, own, strict=True))
    yield "gradient of α", max(map(gap, gradients, in_their_order(tables)))
    adam = torch.optim.Adam(alphas, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    for alpha, gradient in zip(alphas, gradients, strict=True):
        alpha.grad = gradient
    adam.step()
    method.arch_update(own)
    yield "α after one update", max(map(gap, alphas, in_their_order(method.logits)))
    top = definitions(peers / "nasbench_analysis/utils.py", "get_top_k").get_top_k
    space, last = get_space(f"1shot1-{number}"), len(alphas[0]) + 1
    graph = to_graph(space.derive(method.scores()).cells)
    vertices = [last, *range(last - len(alphas) + 2, last)]
    read = [
        sorted(top(alpha.detach().softmax(-1).numpy(), len(graph.sources(vertex))))
        for alpha, vertex in zip(alphas[1:], vertices, strict=True)
    ]
    yield "what is read (0 = equal)", float(read != [graph.sources(v) for v in vertices])


for space_number in (1, 2, 3):
    against("nasbench-1shot1", f"darts-v1 on 1shot1-{space_number}")(
        lambda peers, number=space_number: compared(peers, number)
    )
