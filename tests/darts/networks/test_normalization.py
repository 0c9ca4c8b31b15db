"""Batch normalisation by the package's own passes, against PyTorch's in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from darts.networks import normalization
from darts.networks.normalization import BatchNorm2d, batch_norm
from tests.snsoftmax.test_node_convolve import Called

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
LAST = torch.channels_last


def make(channels: int, dtype: torch.dtype, affine: bool, track: bool) -> BatchNorm2d:
    """With γ of both signs."""
    norm = BatchNorm2d(channels, affine=affine, track_running_stats=track)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.double() if dtype == torch.float64 else norm


def plain(norm: BatchNorm2d) -> nn.BatchNorm2d:
    """PyTorch's of the same numbers, in float64."""
    other = copy.deepcopy(norm).double()
    other.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    return other


def deviation(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double(), wanted.detach()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-6))


def agree(norm: BatchNorm2d, x: Tensor, tolerance: float) -> None:
    """Values, gradients and what is kept are PyTorch's."""
    other = plain(norm)
    ours, theirs = x.requires_grad_(), x.detach().double().requires_grad_()
    with Called() as called:
        y = norm(ours)
    assert "mixture_statistics" in called.names
    expected = other(theirs)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, (ours, *norm.parameters()), grad)
    wanted = torch.autograd.grad(expected, (theirs, *other.parameters()), grad.double())
    for got, want in zip((y, *found), (expected, *wanted), strict=True):
        assert got.shape == want.shape
        assert deviation(got, want) <= tolerance
    for (name, got), (_, want) in zip(norm.named_buffers(), other.named_buffers(), strict=True):
        assert deviation(got, want.double()) <= tolerance, name


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(2, 4), st.integers(1, 19), st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from(list(TOLERANCE)),
    st.booleans(),
    st.booleans(),
)
def test_training(shape: tuple[int, ...], dtype: torch.dtype, affine: bool, track: bool) -> None:
    torch.manual_seed(0)
    n, c, h, w = shape
    # More values a channel than would leave its gradient to cancellation.
    x = torch.randn(n + 3, c, h + 1, w).to(dtype).contiguous(memory_format=LAST)
    agree(make(c, dtype, affine, track), x, TOLERANCE[dtype])


@pytest.mark.parametrize("weight", [0.0, 1e-12, -1e-30])
def test_a_weight_of_nothing(weight: float) -> None:
    """A channel that γ takes out gives no gradient, and a small γ divides nothing to infinity."""
    torch.manual_seed(0)
    norm = make(4, torch.float32, True, True)
    with torch.no_grad():
        norm.weight[1] = weight
    x = torch.randn(6, 4, 5, 5).contiguous(memory_format=LAST)
    agree(norm, x, TOLERANCE[torch.float32])
    (grad,) = torch.autograd.grad(norm(x)[:, 1].square().sum(), x)
    assert grad.isfinite().all()
    assert grad[:, 1].abs().max() <= 20 * abs(weight)


def test_derivatives_of_every_order() -> None:
    norm = make(3, torch.float64, True, False)
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()

    def call(x: Tensor, *affine: Tensor) -> Tensor:
        weight, bias = affine or (None, None)
        y: Tensor = normalization._Normalization.apply(x, weight, bias, ([], []))
        return y

    for inputs in ([x, norm.weight, norm.bias], [x]):
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


def test_only_what_is_asked_for() -> None:
    norm = make(3, torch.float32, True, True)
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=LAST)
    norm.weight.requires_grad_(False)
    (grad,) = torch.autograd.grad(norm(x).square().sum(), norm.bias)
    assert grad.shape == (3,)
    norm.bias.requires_grad_(False)
    assert not norm(x).requires_grad


def test_what_the_passes_do_not_take_is_pytorchs() -> None:
    """Evaluation, another layout or dtype, other settings."""
    x = torch.randn(4, 3, 5, 5)
    cases = [
        (BatchNorm2d(3).eval(), x.contiguous(memory_format=LAST)),
        (BatchNorm2d(3), x),
        (BatchNorm2d(3, momentum=0.2), x.contiguous(memory_format=LAST)),
        (BatchNorm2d(3, eps=1e-3), x.contiguous(memory_format=LAST)),
        (BatchNorm2d(3).half(), x.half().contiguous(memory_format=LAST)),
    ]
    for norm, images in cases:
        with Called() as called:
            y = norm(images)
        assert not [name for name in called.names if "mixture" in name]
        assert deviation(y, plain(norm)(images.double()).detach()) <= 2e-3


def test_a_single_value_a_channel_is_refused_as_ever() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm2d(3)(torch.randn(1, 3, 1, 1))


def test_without_parameters() -> None:
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=LAST)
    mean, var = torch.zeros(3), torch.ones(3)
    y = batch_norm(x, mean, var, True)
    other = nn.BatchNorm2d(3, affine=False)
    torch.testing.assert_close(y, other(x))
    torch.testing.assert_close(mean, other.running_mean)
    torch.testing.assert_close(var, other.running_var)
