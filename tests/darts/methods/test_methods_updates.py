"""Methods that change how α moves: GAEA, penalties, second order, SDARTS."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.data import load
from darts.methods.sdarts import project
from darts.methods.sparse_nas import sparse_group_proximal
from darts.recipes import configure
from darts.supernet import build_supernet
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


@pytest.mark.parametrize("name", ["gaea-bilevel", "gaea-erm", "gaea-pc"])
def test_gaea_is_the_closed_form_and_stays_on_the_simplex(name: str) -> None:
    method = make(name)
    method.begin_epoch(0)
    c = ranked() * 3
    beta = torch.full((6, 5), 0.2)
    for _ in range(20):
        gradients = [c, *[torch.zeros_like(p) for p in method.parameters()[1:]]]
        method.arch_update(gradients)
        beta = (beta * torch.exp(-0.1 * c)).clamp(min=1e-5)
        beta = beta / beta.sum(-1, keepdim=True)
        torch.testing.assert_close(method.logits["cell"].detach(), beta)
    sums = method.probabilities()["cell"].sum(-1)
    torch.testing.assert_close(sums, torch.ones(6))
    assert method.logits["cell"].min() > 0


def test_gaea_gradient_is_that_of_beta() -> None:
    method = make("gaea-bilevel")
    c = ranked()
    step = SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=LinearLoss(c))
    torch.testing.assert_close(method.arch_gradients(step)[0], c)


def test_gaea_erm_learns_from_all_images() -> None:
    images = load("digits")
    seen = {}
    for name in ("gaea-erm", "gaea-bilevel"):
        search = Search(configure(method=name, data={"batch_size": 64}), images=images)
        seen[name] = [half.drawn for half in (search.batches.weights, search.batches.arch)]
    whole = len(images.train_images)
    assert seen["gaea-erm"] == [whole // 64 * 64] * 2
    assert seen["gaea-bilevel"] == [whole // 2 // 64 * 64] * 2


def test_beta_decay_adds_softmax_to_the_gradient() -> None:
    """d/dα of λ·mean log Σ exp(α) is λ/edges·softmax(α)."""
    method = make("beta-darts", epochs=100)
    set_logits(method, ranked())
    method.begin_epoch(40)
    objective = method.arch_objective(LinearLoss(torch.zeros(6, 5)))
    (gradient,) = torch.autograd.grad(objective, method.logits["cell"])
    torch.testing.assert_close(gradient, 20 / 6 * torch.softmax(ranked(), -1))
    method.begin_epoch(0)
    assert method.arch_objective(LinearLoss(torch.zeros(6, 5))) == 0


def test_fair_darts_does_not_let_operations_compete() -> None:
    method = make("fair-darts")
    assert torch.equal(method.weights()["cell"], torch.full((6, 5), 0.5))
    set_logits(method, ranked())
    torch.testing.assert_close(method.weights()["cell"], ranked().sigmoid())
    objective = method.arch_objective(LinearLoss(torch.zeros(6, 5)))
    assert objective.item() == pytest.approx(
        -10 * float((ranked().sigmoid() - 0.5).square().mean())
    )


def test_sparse_group_proximal_minimises_its_objective() -> None:
    v = ranked(3, 4).double()
    lasso, group = 0.3, 0.15

    def objective(x: Tensor) -> float:
        penalty = lasso * x.abs().sum() + group * x.numel() ** 0.5 * x.norm()
        return float((x - v).square().sum() / 2 + penalty)

    found = sparse_group_proximal(v, lasso, group)
    best = objective(found)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-1, 1e-2, 1e-3):
        for _ in range(200):
            step = scale * torch.randn(v.shape, generator=generator, dtype=v.dtype)
            assert objective(found + step) > best
    assert (found == 0).any()
    assert not sparse_group_proximal(0.1 * v, lasso, group).any()


def test_sparse_nas_steps_through_the_proximal_operator() -> None:
    method = make("sparse-nas", arch={"learning_rate": 0.1}, options={"lasso": 1.0, "group": 0.5})
    c = ranked()
    a = method.logits["cell"].detach().clone().requires_grad_()
    adam = torch.optim.Adam([a], lr=0.1, betas=(0.5, 0.999))
    a.grad = c
    adam.step()
    method.arch_update([c])
    groups = torch.cat(
        [sparse_group_proximal(part, 0.1, 0.05) for part in a.detach().split([1, 2, 3])]
    )
    torch.testing.assert_close(method.logits["cell"].detach(), groups)
    assert (method.scores()["cell"] >= 0).all()


def test_gibbs_samples_its_posterior() -> None:
    """On the energy n·k·α²/2 + α²/2σ², variance T/(n·k + 1/σ²) around zero."""
    settings = {"images": 50.0, "prior": 1.0, "noise": 2.0}
    method = make("gibbs", options=settings, arch={"learning_rate": 2e-3, "initial_scale": 0.0})
    draws = []
    for n in range(6000):
        method.arch_update([0.4 * method.logits["cell"].detach()])
        if n > 500:
            draws.append(method.logits["cell"].detach().clone())
    values = torch.stack(draws)
    assert float(values.mean()) == pytest.approx(0, abs=0.02)
    assert float(values.var()) == pytest.approx(2.0 / (50 * 0.4 + 1), rel=0.1)


def test_gibbs_selects_by_the_posterior_mean() -> None:
    method = make("gibbs", epochs=4)
    betas = []
    for epoch in range(4):
        method.begin_epoch(epoch)
        set_logits(method, ranked() * epoch)
        method.end_epoch(None)
        betas.append(torch.softmax(ranked() * epoch, -1))
    torch.testing.assert_close(method.scores()["cell"], (betas[2] + betas[3]) / 2)


def test_surge_runs_every_operation_once_in_as_many_steps() -> None:
    method = make("surge")
    set_logits(method, ranked())
    step = SimpleNamespace()
    for _ in range(3):
        seen = sum(method.training_weights(step)["cell"] for _ in range(5))
        assert torch.equal(seen, torch.ones(6, 5))


def test_surge_orders_by_its_probabilities() -> None:
    method = make("surge")
    set_logits(method, 3 * ranked())
    first = torch.zeros(6, 5)
    for _ in range(2000):
        for place in range(5):
            drawn = method.training_weights(SimpleNamespace())["cell"]
            first += drawn if place == 0 else 0
    torch.testing.assert_close(first / 2000, torch.softmax(3 * ranked(), -1), atol=0.04, rtol=0)


def test_surge_penalises_identity() -> None:
    method = make("surge", options={"identity": 0.6})
    method.advance()
    objective = method.arch_objective(LinearLoss(torch.zeros(6, 5)))
    beta = torch.softmax(method.logits["cell"].detach(), -1)
    assert objective.item() == pytest.approx(float(0.6 * beta[:, 1].mean()), rel=1e-5)


def test_projection_keeps_rows_on_the_simplex() -> None:
    rows = torch.tensor([[0.5, -0.2, 0.9], [-1.0, -0.5, -2.0], [0.2, 0.3, 0.5]])
    found = project(rows)
    torch.testing.assert_close(found.sum(-1), torch.ones(3))
    assert torch.equal(found[1], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(found[2], rows[2])


def test_sdarts_radius_grows_from_003() -> None:
    method = make("sdarts-rs", epochs=50)
    radii = []
    for epoch in (0, 25, 49):
        method.begin_epoch(epoch)
        radii.append(method.radius())
    assert radii == pytest.approx([0.03, 0.165, 0.03 + 0.27 * 49 / 50])


def test_sdarts_rs_is_noise_in_the_weight_step_only() -> None:
    method = make("sdarts-rs")
    method.begin_epoch(0)
    clean = method.weights()["cell"].detach()
    noisy = method.training_weights(SimpleNamespace())["cell"]
    assert not torch.equal(clean, noisy)
    assert (clean - noisy).abs().max() < 2 * method.radius()
    assert torch.equal(method.weights()["cell"].detach(), clean)


def test_sdarts_adv_raises_the_loss_within_its_ball() -> None:
    method = make("sdarts-adv", epochs=50)
    method.begin_epoch(10)
    set_logits(method, ranked())
    clean = {"cell": torch.softmax(ranked(), -1)}
    target = torch.softmax(ranked().flip(0), -1)

    def loss(weights: Any, *, skip: bool = False) -> Any:
        return (weights["cell"] - target).square().sum()

    attacked = method.attack(clean, loss)
    noisy = [method.noisy(clean) for _ in range(50)]
    assert loss(attacked) > max(loss(weights) for weights in noisy)
    torch.testing.assert_close(attacked["cell"].sum(-1), torch.ones(6))
    assert (attacked["cell"] >= 0).all()
    # Rows are normalised after the clamp: each is a multiple of one within the ball.
    low = ((clean["cell"] - method.radius()) / attacked["cell"]).amax(-1)
    high = ((clean["cell"] + method.radius()) / attacked["cell"]).amin(-1)
    assert (low <= high * (1 + 1e-5)).all()


def test_sdarts_adv_keeps_beta_where_the_loss_cannot_rise() -> None:
    method = make("sdarts-adv")
    method.begin_epoch(0)
    clean = {"cell": torch.softmax(ranked(), -1)}

    def loss(weights: Any, *, skip: bool = False) -> Any:
        return -(weights["cell"] - clean["cell"]).square().sum()

    assert torch.equal(method.attack(clean, loss)["cell"], clean["cell"])


def test_second_order_gradient_is_the_exact_unrolled_one(
    batch: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite differences and the exact mode against torch.func on the whole unrolled objective."""
    torch.manual_seed(0)
    method = make("darts-v2", options={"exact": True})
    a = (0.3 * ranked()).double()
    method.logits = {"cell": a.clone().requires_grad_()}
    net = build_supernet(
        method.space, channels=4, cells=1, classes=10, track_statistics=False
    ).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    train = (batch[0][:4].double(), batch[1][:4])
    valid = (batch[0][4:].double(), batch[1][4:])
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(ws: Any, x: Tensor, data: Pair) -> Any:
        weights = {"cell": torch.softmax(x, -1)}
        logits = torch.func.functional_call(net, ws, (data[0], weights))
        return torch.nn.functional.cross_entropy(logits, data[1])

    x = a.clone().requires_grad_()
    names = list(parameters)
    ws = {n: parameters[n].clone().requires_grad_() for n in names}
    grads = torch.autograd.grad(loss(ws, x, train), [ws[n] for n in names], create_graph=True)
    moved = {n: ws[n] - 0.02 * (g + 1e-3 * ws[n]) for n, g in zip(names, grads, strict=True)}
    (expected,) = torch.autograd.grad(loss(moved, x, valid), x)

    losses = SimpleNamespace(outcome=None)
    step = SimpleNamespace(
        net=net, weight_batch=train, arch_batch=valid, arch_loss=losses, optimizer=optimizer
    )
    (exact,) = method.arch_gradients(step)
    torch.testing.assert_close(exact, expected, rtol=1e-7, atol=1e-10)
    assert losses.outcome is not None
    method.options = type(method.options)(exact=False)
    # At its displacement of 0.01 this tiny net's kinks dominate; the formula is what is tested.
    monkeypatch.setattr("darts.supernet.step.FINITE_DIFFERENCE", 1e-5)
    (finite,) = method.arch_gradients(step)
    torch.testing.assert_close(finite, expected, rtol=1e-6, atol=1e-8)


def test_gaea_stops_half_way_through_its_cosine_on_nb201() -> None:
    method = make("gaea-bilevel")
    assert method.epochs == 25
    assert method.learning_rate(0) == pytest.approx(0.025)
    assert method.learning_rate(25) == pytest.approx(0.013)
    elsewhere = make("gaea-bilevel", space="darts", epochs=50)
    assert elsewhere.learning_rate(25) == pytest.approx(0.013)


def test_sdarts_adv_keeps_running_statistics_of_operations_without_weight() -> None:
    """The next attack normalises by them, so no operation may be left out."""
    search = Search(
        configure(
            method="sdarts-adv",
            options={"epsilon": 3.0, "steps": 1},
            epochs=1,
            data={"batch_size": 8},
            supernet={"channels": 4, "cells": 1},
        ),
        images=load("digits"),
    )
    search.method.begin_epoch(0)
    search.method.epoch = 1  # the largest radius
    used: list[Tensor] = []
    attacked = search.method.training_weights

    def watched(step: Any) -> Any:
        used.extend(attacked(step).values())
        return {"cell": used[-1]}

    search.method.training_weights = watched  # type: ignore[method-assign]
    search.net.train()
    search.step(*next(iter(search.batches.epoch())))
    assert (used[0] == 0).any()
    means = [v for n, v in search.net.conventional_views().items() if "running_mean" in n]
    assert len(means) > 30
    assert all((mean != 0).all() for mean in means)
