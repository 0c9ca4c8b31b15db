"""Convolutions by the package's own CUDA kernels, those of a node together: the same steps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from darts import Search, configure
from darts.data import load
from darts.spaces import SPACES, Space
from darts.supernet import Supernet, build_supernet
from darts.supernet.branches import Convolutions
from darts.supernet.depthwise import DepthwiseConvolutions
from darts.supernet.step import weight_step, without_negligible
from tests.darts.methods.method_helpers import arch_gradients
from tests.darts.supernet.test_pointwise import Operators
from tests.darts.supernet.test_supernet import (
    assert_close,
    gradient,
    gradients_of,
    make_alphas,
    make_batch,
    one_per_edge,
    softmax,
)
from tests.snsoftmax.test_node_convolve import Called

NAMES = ["nb201", "nb201-without-none", "transnas"]
"""Spaces of convolutions."""


def both(space: Space, track: bool = True, auxiliary: bool = False) -> list[Supernet]:
    """The same network, one operation at a time and together."""
    torch.manual_seed(0)
    apart = build_supernet(
        space, channels=4, cells=1, classes=10, track_statistics=track, auxiliary_skip=auxiliary
    ).double()
    together = copy.deepcopy(apart)
    together.own_convolutions = True
    assert together.own_convolutions
    assert not apart.own_convolutions
    assert any(isinstance(module, Convolutions) for module in together.modules())
    return [apart, together]


def state(net: Supernet) -> dict[str, Tensor]:
    """Gradients and running statistics."""
    statistics = {n: b.clone() for n, b in net.named_buffers() if b.is_floating_point()}
    return {**gradients_of(net), **statistics}


def assert_same(found: list[dict[str, Tensor]], tolerance: float = 1e-9) -> None:
    for what, wanted in found[0].items():
        assert_close(found[1][what], wanted, tolerance, what)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_the_same(name: str) -> None:
    space = SPACES[name]
    batches = make_batch(torch.float64), make_batch(torch.float64)
    start = make_alphas(space, torch.float64)
    found = []
    for net in both(space):
        alphas = {n: a.detach().requires_grad_() for n, a in start.items()}
        outcome = weight_step(net, batches[0], softmax(alphas))
        gradients, _ = arch_gradients(net, batches[1], space, alphas)
        moved = {f"alpha of {n}": g for n, g in zip(alphas, gradients, strict=True)}
        found.append({"logits": outcome.logits, **state(net), **moved})
    assert_same(found)


def test_chosen_rows_are_the_same() -> None:
    """One operation an edge: nodes with no, one and several convolutions of a kind."""
    space = SPACES["nb201"]
    batch, beta = make_batch(torch.float64), one_per_edge(space, torch.float64)
    found = []
    for net in both(space):
        logits = weight_step(net, batch, beta).logits
        found.append({"logits": logits, **state(net)})
    assert_same(found)


@pytest.mark.parametrize("track", [True, False])
def test_evaluation_is_the_same(track: bool) -> None:
    space = SPACES["nb201"]
    beta = {n: b.detach() for n, b in softmax(make_alphas(space, torch.float64)).items()}
    images, _ = make_batch(torch.float64)
    nets = [net.eval() for net in both(space, track)]
    with torch.no_grad():
        logits = [net(images, beta) for net in nets]
    assert_close(logits[1], logits[0], 1e-9, "logits")


def test_second_derivatives_are_the_same() -> None:
    space = SPACES["nb201"]
    images, labels = make_batch(torch.float64, n=2, size=4)
    start = make_alphas(space, torch.float64)
    found = []
    for net in both(space):
        alphas = {n: a.detach().requires_grad_() for n, a in start.items()}
        loss = torch.nn.functional.cross_entropy(net(images, softmax(alphas)), labels)
        parameters = list(net.parameters())
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        second = torch.autograd.grad(
            torch.stack([g.square().sum() for g in first]).sum(), list(alphas.values())
        )
        found.append(dict(zip(alphas, second, strict=True)))
    assert_same(found)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_what_does_not_count_is_left_out_by_the_kernels(auxiliary: bool) -> None:
    """And has no gradient, and its running statistics stay."""
    space = SPACES["nb201"]
    batch = make_batch(torch.float64)
    sharp = (one_per_edge(space, torch.float64)["cell"] + 1e-20) * torch.rand(6, 1).double()
    beta, live = without_negligible({"cell": sharp}, 1e-16)
    assert torch.equal(live["cell"], beta["cell"] > 0)
    assert live["cell"].sum() == 6
    found = []
    for net, flags in zip(both(space, auxiliary=auxiliary), (None, live), strict=True):
        before = variances(net)
        logits = net(batch[0], beta, flags)
        loss = torch.nn.functional.cross_entropy(logits, batch[1])
        parameters = list(net.parameters())
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = g
        found.append({"logits": logits.detach(), **gradients_of(net)})
        after = variances(net)
        for name, was in before.items():
            edge, column = (int(part) for part in name.split("edges.")[1].split(".")[:2])
            moved = flags is None or bool(live["cell"][edge, column])
            assert torch.equal(after[name], was) != moved, name
    assert_same(found)


def variances(net: Supernet) -> dict[str, Tensor]:
    """Running variances of convolutions, by conventional names."""
    views = net.conventional_views()
    names = [n for n in views if ".edges." in n and n.endswith(".2.running_var")]
    return {n: views[n].clone() for n in names}


def test_what_counts_is_read_on_the_device() -> None:
    """Tensors without values refuse to be read."""
    space = SPACES["nb201"]
    net = build_supernet(space, channels=16, cells=1, classes=10).to("meta")
    net.own_convolutions = True
    batch = torch.randn(4, 3, 16, 16, device="meta"), torch.zeros(4, device="meta").long()
    with Called() as called:
        outcome = weight_step(net, batch, {"cell": torch.zeros(6, 5, device="meta")})
    assert outcome.logits.shape == (4, 10)
    assert called.names.count("node_convolve") == 9  # three nodes in each of three cells


def test_what_the_kernels_do_not_take_is_convolved_as_usual() -> None:
    net = build_supernet(SPACES["nb201"], channels=8, cells=1, classes=10).to("meta")
    net.own_convolutions = True
    images = torch.randn(4, 3, 16, 16, device="meta")
    with Called() as called:
        net(images, {"cell": torch.zeros(6, 5, device="meta")})
    assert called.names.count("node_convolve") == 6  # of 16 and 32 channels


def test_depthwise_ones_too() -> None:
    net = build_supernet(SPACES["darts"], channels=4, cells=3, classes=10)
    branches = [m for m in net.modules() if isinstance(m, DepthwiseConvolutions)]
    assert branches
    assert not any(branch.untried for branch in branches)
    net.own_convolutions = True
    assert all(branch.untried for branch in branches)


def test_a_search_on_the_cpu_keeps_its_own_kernels() -> None:
    config = configure(method="edd", supernet={"own_convolutions": True})
    assert not Search(config, images=load("digits")).net.own_convolutions


@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "cells"), [("nb201", 1), ("darts", 3)])
def test_steps_on_a_gpu(
    cuda: torch.device, name: str, cells: int, precision: torch.dtype, sharp: bool
) -> None:
    """By kernels of our own, whose products are rounded, against float64 one at a time."""
    space = SPACES[name]
    torch.manual_seed(0)
    exact = build_supernet(space, channels=16, cells=cells, classes=10).double().to(cuda)
    net = copy.deepcopy(exact).float()
    net.own_convolutions = True
    images, labels = (t.to(cuda) for t in make_batch(torch.float64, n=16, size=16))
    scale = 100 if sharp else 1
    alphas = make_alphas(space, torch.float64)
    beta = {n: (scale * a.detach().to(cuda)).softmax(-1) for n, a in alphas.items()}
    wanted = weight_step(exact, (images, labels), beta, zero_skip=False)
    autocast = precision if precision == torch.bfloat16 else None
    low = {n: b.float() for n, b in beta.items()}
    found = weight_step(net, (images.float(), labels), low, precision=autocast)
    tolerance = 5e-2 if autocast else 1e-2
    assert_close(found.logits.double(), wanted.logits, tolerance, "logits")
    theirs = gradients_of(exact)
    ours = gradients_of(net)
    whole = torch.cat([ours[n].double().flatten() for n in theirs])
    assert_close(whole, torch.cat([g.flatten() for g in theirs.values()]), 0.2, "gradient")


def test_a_step_on_a_gpu_copies_no_map(cuda: torch.device) -> None:
    """Neither into slices nor into another layout; nothing is put together but what the step does
    itself, cells' outputs and kernels.
    """
    net = build_supernet(SPACES["darts"], channels=16, cells=3, classes=10)
    net.own_convolutions = True
    beta = {name: torch.rand(cell.shape) for name, cell in SPACES["darts"].cells.items()}

    def step(device: torch.device | str) -> None:
        batch = torch.zeros(16, 3, 32, 32, device=device), torch.zeros(16, device=device).long()
        weight_step(net.to(device), batch, {name: b.to(device) for name, b in beta.items()})

    with Operators() as operators:
        step("meta")
    net.to_empty(device=cuda)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    step(cuda)
    with torch.profiler.profile() as profile:
        step(cuda)
    kernels = [e.name for e in profile.events() if str(e.device_type).endswith("CUDA")]
    assert any("gather_results" in name for name in kernels)
    assert not [name for name in kernels if "nhwcSlice" in name or "tensorTransform" in name]
    cats = operators.names.count("cat.default")
    assert 0 < sum("CatArray" in name for name in kernels) <= cats


def test_a_recorded_step_on_a_gpu_reads_what_counts_anew(cuda: torch.device) -> None:
    space = SPACES["nb201"]
    torch.manual_seed(0)
    net = build_supernet(space, channels=16, cells=1, classes=10, track_statistics=False).to(cuda)
    net.own_convolutions = True
    batch = tuple(t.to(cuda) for t in make_batch(torch.float32, n=16, size=16))
    alpha = make_alphas(space, torch.float32)["cell"].detach().to(cuda)
    t = torch.ones((), device=cuda)

    def step() -> Tensor:
        return weight_step(net, (batch[0], batch[1]), {"cell": (alpha / t).softmax(-1)}).logits

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        recorded = step()
    held = {n: gradient(p) for n, p in net.named_parameters()}
    for temperature in (1.0, 0.01):
        t.fill_(temperature)
        graph.replay()
        found = [recorded.clone(), *(g.clone() for g in held.values())]
        wanted = [step(), *(gradient(p) for p in net.parameters())]
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for p, g in zip(net.parameters(), held.values(), strict=True):
            p.grad = g
