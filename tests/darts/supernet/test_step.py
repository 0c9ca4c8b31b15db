"""The primitives of a bilevel step."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darts.devices.capture import CapturedStep
from darts.spaces import NB201, SPACES
from darts.supernet import Supernet, build_supernet, live_operations
from darts.supernet import step as steps
from darts.supernet.step import displaced, frozen, unrolled_arch_step, weight_step
from tests.darts.methods.method_helpers import arch_gradients


@pytest.fixture
def net() -> Supernet:
    torch.manual_seed(0)
    return build_supernet(NB201, channels=2, cells=1, classes=10).double()


@pytest.fixture
def alpha() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(6, 5, dtype=torch.float64).requires_grad_()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.randint(10, (6,), generator=generator)


def sgd_for(net: Supernet) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=3e-4)


def test_weight_step_leaves_alpha_alone(net: Supernet, alpha: Tensor) -> None:
    outcome = weight_step(net, batch(0), {"cell": alpha.softmax(-1)})
    assert alpha.grad is None
    assert all(p.grad is not None for p in net.parameters())
    expected = F.cross_entropy(outcome.logits, batch(0)[1])
    torch.testing.assert_close(outcome.loss, expected)
    assert not outcome.loss.requires_grad


def test_skipped_operations_still_decay(net: Supernet) -> None:
    """A zero gradient is not a missing one: SGD applies momentum and weight decay."""
    before = [p.detach().clone() for p in net.parameters()]
    weight_step(net, batch(0), {"cell": torch.zeros(6, 5, dtype=torch.float64)})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.5)
    optimizer.step()
    cells = [n for n, _ in net.named_parameters() if ".sources." in n]
    after = dict(net.named_parameters())
    old = dict(zip(after, before, strict=True))
    assert cells
    for name in cells:
        torch.testing.assert_close(after[name].detach(), old[name] * 0.95)


@pytest.mark.parametrize("channels", [4, 16])  # 16: by convolutions of our own
def test_fused_sgd_moves_what_is_computed_beside_operations_left_out(channels: int) -> None:
    """It takes each gradient's elements in the parameter's order, so that layouts must be equal."""
    torch.manual_seed(0)
    net = build_supernet(NB201, channels=channels, cells=1, classes=10).double()
    beta = torch.zeros(6, 5, dtype=torch.float64)
    beta[:, 1] = beta[0, 3] = 0.5  # one 3x3 convolution of the three that leave the first node
    weight_step(net, batch(0), {"cell": beta})
    expected = [p.detach() - 0.1 * p.grad for p in net.parameters() if p.grad is not None]
    torch.optim.SGD(net.parameters(), lr=0.1, fused=True).step()
    for (name, p), wanted in zip(net.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted, msg=name)


def test_a_gradient_in_the_same_order_is_not_copied() -> None:
    """Strides of dimensions of one element say nothing."""
    p = torch.empty(8, 1, 3, 3).to(memory_format=torch.channels_last)
    g = torch.randn(8, 1, 3, 3)
    found = steps.laid_out_as(p, g)
    assert found.stride() == p.stride()
    assert found.data_ptr() == g.data_ptr()
    assert torch.equal(found, g)
    p, g = torch.empty(8, 4, 3, 3).to(memory_format=torch.channels_last), torch.randn(8, 4, 3, 3)
    found = steps.laid_out_as(p, g)
    assert found.stride() == p.stride()
    assert torch.equal(found, g)
    assert steps.laid_out_as(g, g) is g


def test_frozen_restores_even_after_an_error(net: Supernet) -> None:
    first = next(net.parameters())
    first.requires_grad_(False)
    seen: list[bool] = []

    def fail() -> None:
        with frozen(net):
            seen.extend(p.requires_grad for p in net.parameters())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert seen
    assert not any(seen)
    assert [p.requires_grad for p in net.parameters()].count(False) == 1


def test_displaced_moves_the_beta_of_each_cell_by_its_own(net: Supernet) -> None:
    beta = torch.softmax(torch.randn(6, 5, dtype=torch.float64), -1)
    by = torch.randn(6, 5, dtype=torch.float64)
    images, _ = batch(1)
    plain, moved = net(images, {"cell": beta}), net(images, {"cell": beta + by})
    with displaced(net, "cell", [by, by, by]):
        torch.testing.assert_close(net(images, {"cell": beta}), moved)
    for index in range(3):
        alone = [by * float(index == place) for place in range(3)]
        with displaced(net, "cell", alone):
            out = net(images, {"cell": beta})
        assert not torch.allclose(out, plain)
        assert not torch.allclose(out, moved)
    with pytest.raises(RuntimeError, match="stop"), displaced(net, "cell", [by, by, by]):
        raise RuntimeError("stop")
    assert torch.equal(net(images, {"cell": beta}), plain)
    with pytest.raises(ValueError, match="shorter"), displaced(net, "cell", [by, by]):
        pass
    assert torch.equal(net(images, {"cell": beta}), plain)


def test_live_operations_are_those_not_exactly_zero() -> None:
    weights = {"cell": torch.tensor([[0.0, 1e-30], [0.5, -0.0]])}
    assert live_operations(weights) == {"cell": ((False, True), (True, False))}


def test_negligible_operations_are_so_beside_their_own_edge() -> None:
    weights = {"cell": torch.tensor([[1e-6, -1e-3], [0.5, -1e-6], [torch.nan, 0.0], [0.0, 0.0]])}
    live = ((True, True), (True, False), (True, True), (False, False))
    assert live_operations(weights, 1e-4) == {"cell": live}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_is_left_out_is_lost_in_rounding(net: Supernet, precision: torch.dtype) -> None:
    """Without it, loss and gradients are as far from the exact ones as they are anyway."""
    eps = torch.finfo(precision).eps
    autocast = None if precision is torch.float32 else precision
    beta = torch.full((6, 5), eps / 4, dtype=torch.float64)
    beta[:, 3] = 1.0
    low = {"cell": beta.float()}
    found = {}
    for skip in (False, True):
        twin = copy.deepcopy(net).float()
        images, labels = batch(0)
        loss = weight_step(
            twin, (images.float(), labels), low, zero_skip=skip, precision=autocast
        ).loss
        found[skip] = [loss, *(p.grad for p in twin.parameters() if p.grad is not None)]
    weight_step(net, batch(0), {"cell": beta}, zero_skip=False)
    exact = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    dense, skipped = (torch.cat([g.flatten() for g in found[s][1:]]) for s in (False, True))
    assert (skipped == 0).sum() > (dense == 0).sum()
    torch.testing.assert_close(found[True][0], found[False][0], rtol=eps, atol=0.0)
    assert (skipped - exact).norm() <= 1.5 * (dense - exact).norm()


def unrolled_loss(net: Supernet, alpha: Tensor, optimizer: torch.optim.SGD) -> float:
    """L_val after one step of ``optimizer`` on copies, by brute force."""
    twin = build_supernet(NB201, channels=2, cells=1, classes=10).double()
    twin.load_state_dict(net.state_dict())
    weights = {"cell": alpha.softmax(-1)}
    weight_step(twin, batch(0), weights)
    again = sgd_for(twin)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # the buffers would be shared
    again.step()
    loss = F.cross_entropy(twin(batch(1)[0], weights), batch(1)[1])
    return loss.item()


def test_exact_second_order_is_the_derivative_of_the_unrolled_loss(
    net: Supernet, alpha: Tensor
) -> None:
    optimizer = sgd_for(net)
    make = lambda: {"cell": alpha.softmax(-1)}  # noqa: E731
    weight_step(net, batch(2), make())
    optimizer.step()  # so that there is momentum
    state = {k: v.clone() for k, v in net.state_dict().items()}
    unrolled_arch_step(net, batch(0), batch(1), make, [alpha], optimizer, exact=True)
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert alpha.grad is not None
    gradient = alpha.grad
    (first,) = arch_gradients(net, batch(1), NB201, {"cell": alpha})[0]
    torch.manual_seed(3)
    for _ in range(3):
        direction = torch.randn_like(alpha)
        h = 1e-5
        ahead = unrolled_loss(net, alpha.detach() + h * direction, optimizer)
        behind = unrolled_loss(net, alpha.detach() - h * direction, optimizer)
        torch.testing.assert_close(
            (gradient * direction).sum().item(), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-8
        )
    assert (gradient - first).norm() > 0.01 * gradient.norm()  # it is not the first order


def test_finite_difference_approaches_the_exact_second_order(
    net: Supernet, alpha: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = sgd_for(net)
    make = lambda: {"cell": alpha.softmax(-1)}  # noqa: E731
    unrolled_arch_step(net, batch(0), batch(1), make, [alpha], optimizer, exact=True)
    assert alpha.grad is not None
    exact = alpha.grad.clone()
    monkeypatch.setattr(steps, "FINITE_DIFFERENCE", 1e-6)
    unrolled_arch_step(net, batch(0), batch(1), make, [alpha], optimizer)
    torch.testing.assert_close(alpha.grad, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_no_step_reads_a_value_back(name: str) -> None:
    """On meta tensors, which have no values, a step that needed one would fail."""
    space = SPACES[name]
    cells = 3 if space.leaves_edges_out else 1
    net = build_supernet(space, channels=8, cells=cells, classes=10).to("meta")
    meta = torch.randn(4, 3, 16, 16, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    alphas = {
        n: torch.zeros(c.shape, device="meta", requires_grad=True) for n, c in space.cells.items()
    }
    make = lambda: {n: a.softmax(-1) for n, a in alphas.items()}  # noqa: E731
    outcome = weight_step(net, meta, make())
    assert outcome.logits.shape == (4, 10)
    gradients, outcome = arch_gradients(net, meta, space, alphas)
    assert outcome.logits.shape == (4, 10)
    assert all(g.is_meta for g in gradients)


def test_captured_step_is_the_step_itself_without_cuda(net: Supernet, alpha: Tensor) -> None:
    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        outcome = weight_step(net, (images, labels), {"cell": alpha.softmax(-1)})
        return outcome.loss, outcome.logits

    captured = CapturedStep(step)
    loss, logits = captured(*batch(1))
    expected_loss, expected_logits = step(*batch(1))
    assert torch.equal(loss, expected_loss)
    assert torch.equal(logits, expected_logits)
