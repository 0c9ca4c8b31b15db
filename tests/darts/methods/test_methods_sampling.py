"""Methods that sample β: GDAS, SNAS, ReinMax, DrNAS."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from darts.data import load
from darts.methods.base import one_hot
from darts.recipes import configure
from darts.spaces import get_space
from darts.supernet import build_supernet
from darts.supernet.widen import growth, widen
from darts.training.search import Search
from tests.darts.methods.method_helpers import (
    LinearLoss,
    Pair,
    make,
    ranked,
    set_logits,
    some_batch,
)


@pytest.fixture(scope="module")
def batch() -> Pair:
    return some_batch()


def test_gdas_is_hard_forward_and_straight_through_backward() -> None:
    method = make("gdas")
    method.begin_epoch(100)
    set_logits(method, ranked())
    state = method.generator.get_state()
    beta = method.weights()["cell"]
    method.generator.set_state(state)
    noise = -torch.empty(6, 5).exponential_(generator=method.generator).log()
    a = method.logits["cell"].detach().clone().requires_grad_()
    tau = float(method.temperature)
    assert 0.1 < tau < 10
    soft = torch.softmax((a.log_softmax(-1) + noise) / tau, -1)
    drawn = one_hot(soft.argmax(-1), soft)
    assert torch.equal(beta, drawn)
    c = ranked().flip(0)
    torch.testing.assert_close(  # only the drawn operation's weight has a gradient
        torch.autograd.grad((beta * c).sum(), method.logits["cell"]),
        torch.autograd.grad((drawn.detach() * soft * c).sum(), a),
    )


@pytest.mark.parametrize("name", ["gdas", "ets-gdas", "surge", "random"])
def test_it_does_not_matter_whether_what_was_not_drawn_is_computed(name: str) -> None:
    """A step that is recorded on a GPU computes it; running statistics alone follow it then."""
    found = []
    for skips in (True, False):
        config = configure(
            method=name,
            epochs=3,
            data={"batch_size": 16},
            supernet={"channels": 4, "cells": 1, "zero_skip": skips},
        )
        search = Search(config, images=load("digits"))
        search.method.begin_epoch(1)
        search.net.train()
        for _, pair in zip(range(3), search.batches.epoch(), strict=False):
            search.step(*pair)
        found.append([*search.method.parameters(), *search.net.parameters()])
    for skipped, computed in zip(*found, strict=True):
        torch.testing.assert_close(skipped, computed, rtol=1e-4, atol=1e-6)


def test_gdas_samples_follow_softmax() -> None:
    method = make("gdas")
    set_logits(method, ranked())
    with torch.no_grad():
        mean = torch.stack([method.weights()["cell"] for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, torch.softmax(ranked(), -1), atol=0.03, rtol=0)


def noise_of(method: Any, *, edges: int = 6, operations: int = 5) -> Tensor:
    """The Gumbel noise that the method draws next, which it draws again afterwards."""
    state = method.generator.get_state()
    noise = -torch.empty(edges, operations).exponential_(generator=method.generator).log()
    method.generator.set_state(state)
    return noise.double()


def test_snas_draws_from_the_concrete_distribution() -> None:
    """β and its gradient beside float64: softmax((α + Gumbel)/τ), differentiated as it stands."""
    method = make("snas")
    method.begin_epoch(60)
    set_logits(method, ranked())
    noise, tau = noise_of(method), float(method.temperature)
    assert tau == pytest.approx(1 - 0.97 * 61 / 150)
    a = ranked().double().requires_grad_()
    expected = torch.softmax((a + noise) / tau, -1)
    beta = method.weights()["cell"]
    torch.testing.assert_close(beta.double(), expected, rtol=1e-5, atol=1e-7)
    c = ranked().flip(0)
    (found,) = torch.autograd.grad((beta * c).sum(), method.logits["cell"])
    (wanted,) = torch.autograd.grad((expected * c).sum(), a)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)


def test_snas_samples_follow_the_relaxation_and_selects_by_alpha() -> None:
    """P(β_k is the largest) is softmax(α)_k at any temperature (Maddison et al., 2017)."""
    method = make("snas")
    set_logits(method, ranked())
    for epoch in (0, 149):
        method.begin_epoch(epoch)
        with torch.no_grad():
            drawn = torch.stack([method.weights()["cell"].argmax(-1) for _ in range(4000)])
        share = one_hot(drawn, torch.zeros(4000, 6, 5)).mean(0)
        torch.testing.assert_close(share, torch.softmax(ranked(), -1), atol=0.03, rtol=0)
    torch.testing.assert_close(method.scores()["cell"], torch.softmax(ranked(), -1))
    assert float(method.temperature) == pytest.approx(0.03)


def test_snas_drops_paths_from_the_start() -> None:
    method = make("snas")
    net = build_supernet("nb201", channels=4, cells=1, classes=10)
    method.prepare(net)
    assert net.drop_path == 0.3


@pytest.mark.parametrize("tau", [1.0, 1.7])
def test_reinmax_is_hard_forward_and_of_second_order_backward(tau: float) -> None:
    """The gradient beside its formula in float64, from the Jacobian of softmax in the logits."""
    method = make("reinmax", options={"tau": tau})
    method.begin_epoch(7)
    set_logits(method, ranked())
    a = ranked().double()
    drawn = one_hot((a + noise_of(method)).argmax(-1), a)
    beta = method.weights()["cell"]
    assert torch.equal(beta.double(), drawn)

    def pulled_back(p: Tensor, g: Tensor) -> Tensor:
        logits = p.log().requires_grad_()
        return torch.autograd.grad((torch.softmax(logits, -1) * g).sum(), logits)[0]

    c = ranked().flip(0)
    g, middle = c.double(), (drawn + torch.softmax(a / tau, -1)) / 2
    expected = 2 * pulled_back(middle, g) - pulled_back(torch.softmax(a, -1), g) / 2
    loss = LinearLoss(c)
    (found,) = torch.autograd.grad((beta * c).sum(), method.logits["cell"])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    method.arch_objective(loss)
    assert not loss.skipped  # what was not drawn has a part in the gradient


def test_reinmax_is_exact_in_expectation_for_a_quadratic_loss() -> None:
    """Over many draws, beside the gradient of Σ_k softmax(α)_k·f(k) in float64."""
    method = make("reinmax")
    generator = torch.Generator().manual_seed(3)
    square = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    linear = torch.randn(5, generator=generator, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return ((x @ square) * x).sum(-1) + x @ linear

    a = torch.randn(5, generator=generator, dtype=torch.float64)
    exact = torch.func.grad(lambda a: torch.softmax(a, -1) @ f(torch.eye(5).double()))(a)
    many = a.expand(100_000, 5).clone().requires_grad_()
    method.logits = {"cell": many}
    (gradient,) = torch.autograd.grad(f(method.sample("cell", many)).sum(), many)
    error = gradient.std(0) / len(many) ** 0.5
    assert ((gradient.mean(0) - exact).abs() < 5 * error).all()


def test_gdas_computes_one_operation_an_edge_in_both_steps() -> None:
    method = make("gdas")
    loss = LinearLoss(ranked())
    method.arch_objective(loss)
    assert loss.skipped
    assert (method.weights()["cell"] != 0).sum() == 6


def test_gdas_temperature_falls_in_equal_steps_and_ets_gdas_in_equal_exponentials() -> None:
    gdas, ets = make("gdas", epochs=5), make("ets-gdas", epochs=5)
    found = []
    for method in (gdas, ets):
        for epoch in range(5):
            method.begin_epoch(epoch)
            found.append(float(method.temperature))
    assert found[:5] == pytest.approx([10, 7.525, 5.05, 2.575, 0.1])
    assert (found[5], found[9]) == pytest.approx((10, 0.1))
    levels = [math.exp(3.99e-4 / t) for t in found[5:]]
    steps = [b - a for a, b in itertools.pairwise(levels)]
    assert steps == pytest.approx([steps[0]] * 4, rel=1e-3)


def test_drnas_gradient_is_that_of_the_expectation() -> None:
    """Pathwise gradient of E[f(β)] against finite differences of its closed form.

    For Dirichlet(c) with s = Σc: E[β_i²] = c_i(c_i + 1)/(s(s + 1)).
    """
    method = make("drnas")
    a = torch.tensor([[0.3, -0.4, 0.9]], dtype=torch.float64)
    coefficients = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)

    def expectation(logits: Tensor) -> Tensor:
        c = torch.nn.functional.elu(logits) + 1
        s = c.sum()
        return (coefficients * c * (c + 1) / (s * (s + 1))).sum()

    exact = torch.func.jacrev(expectation)(a)
    many = a.expand(200_000, 3).clone().requires_grad_()
    samples = method.sample("cell", method.concentration(many))
    (gradient,) = torch.autograd.grad((coefficients * samples.square()).sum(), many)
    error = gradient.std(0) / len(many) ** 0.5
    assert ((gradient.mean(0) - exact[0]).abs() < 5 * error).all()
    torch.testing.assert_close(samples.sum(-1), torch.ones(len(many), dtype=torch.float64))


def test_drnas_divergence_is_zero_at_the_uniform_dirichlet_only() -> None:
    method = make("drnas", options={"kl": 1.0}, arch={"initial_scale": 0.0})
    flat = LinearLoss(torch.zeros(6, 5))
    assert method.arch_objective(flat).item() == pytest.approx(0, abs=1e-5)
    set_logits(method, ranked())
    assert method.arch_objective(flat).item() > 0.1


def test_progressive_drnas_prunes_for_good_and_widens_half_way(batch: Pair) -> None:
    method = make("drnas-progressive", epochs=4)
    for epoch in range(2):
        method.begin_epoch(epoch)
    assert method.supernet_options()["partial"] == 4
    assert (method.weights()["cell"] > 0).all()
    set_logits(method, ranked())
    method.begin_epoch(2)
    assert method.supernet_options()["partial"] == 2
    best = ranked().topk(3, -1).indices
    mask = torch.zeros(6, 5).scatter(-1, best, 1.0)
    torch.testing.assert_close(method.logits["cell"].detach(), ranked() * mask)
    beta = method.weights()["cell"]
    assert torch.equal(beta > 0, mask > 0)
    torch.testing.assert_close(beta.sum(-1), torch.ones(6))
    assert torch.equal(method.scores()["cell"] > 0, mask > 0)


def test_progressive_drnas_rests_alpha_at_the_start_of_both_stages() -> None:
    method = make("drnas-progressive", epochs=40, arch={"warmup": 10})
    moves = []
    for epoch in range(40):
        method.begin_epoch(epoch)
        moves.append(method.alpha_moves)
    assert moves == 2 * ([False] * 10 + [True] * 10)


def test_widening_copies_channels_and_keeps_the_rest() -> None:
    space = get_space("nb201")
    old, new = (build_supernet(space, channels=8, cells=1, classes=10, partial=k) for k in (4, 2))
    before, after = old.conventional_views(), new.conventional_views()
    widen(before, after, growth(before, after, torch.Generator().manual_seed(0)))
    after = new.conventional_views()
    old_head, new_head = (n.skeleton.get_submodule("classifier") for n in (old, new))
    assert torch.equal(old_head.get_parameter("weight"), new_head.get_parameter("weight"))
    small, large = (v["skeleton.cells.0.edges.1.3.1.weight"] for v in (before, after))
    assert small.shape == (2, 2, 3, 3)
    assert torch.equal(large[:2, :2], small)
    for channel in large[:, :2]:
        assert any(torch.equal(channel, original) for original in small)


class NoHostReads(TorchDispatchMode):
    """What a recorded step cannot do: read a value on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.is_nonzero.default,
            torch.ops.aten.equal.default,
        ), f"{func} reads a value on the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "options"), [("drnas", {}), ("drnas", {"kl": 1.0}), ("edd", {}), ("darts-v1", {})]
)
def test_the_arch_step_reads_nothing_on_the_host(name: str, options: dict[str, object]) -> None:
    method = make(name, options=options)
    assert method.capturable
    method.begin_epoch(0)
    loss = LinearLoss(torch.zeros(6, 5))
    with NoHostReads():
        method.arch_objective(loss).backward()
