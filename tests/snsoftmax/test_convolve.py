"""The convolutions that share their input against PyTorch's own in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snsoftmax import _C, reference
from snsoftmax.convolve import convolve, convolves

ops = torch.ops.snsoftmax
BFLOAT16 = torch.bfloat16
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, BFLOAT16: 8e-3}
WEIGHT_OF = {BFLOAT16: torch.float32}
"""The dtype of weights where it is not the map's."""


def close(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> None:
    error = (ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-3)
    assert error <= TOLERANCE[dtype]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 11), st.integers(1, 11)),
    st.sampled_from([16, 32, 48]),
    st.sampled_from([16, 32, 48]),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.sampled_from(list(TOLERANCE)),
)
def test_both_directions(
    size: tuple[int, int, int], c: int, k: int, edges: int, kernel: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    n, height, width = size
    x = torch.randn(n, c, height, width, dtype=dtype, requires_grad=True)
    weights = [
        torch.randn(k, c, kernel, kernel, dtype=WEIGHT_OF.get(dtype, dtype), requires_grad=True)
        for _ in range(edges)
    ]
    wide = [t.detach().double().requires_grad_() for t in (x, *weights)]
    expected = reference.convolve(wide[0], wide[1:])
    assert convolves(x, weights[0]) or dtype == BFLOAT16
    found = convolve(x, weights)
    grads = [torch.randn_like(y) for y in found]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        close(ours, theirs, dtype)
    our_grads = torch.autograd.grad(found, [x, *weights], grads)
    their_grads = torch.autograd.grad(expected, wide, [g.double() for g in grads])
    for a, b in zip(our_grads, their_grads, strict=True):
        close(a, b, dtype)
    assert [g.dtype for g in our_grads] == [t.dtype for t in (x, *weights)]


@pytest.mark.parametrize("kernel", [1, 3])
def test_bfloat16_is_rounded_without_bias(kernel: int) -> None:
    """Sums over many roundings come closer than each of them."""
    torch.manual_seed(0)
    x = torch.rand(8, 16, 12, 12, dtype=BFLOAT16)
    weight = torch.rand(16, 16, kernel, kernel, requires_grad=True)
    (y,) = convolve(x, [weight])
    (expected,) = reference.convolve(x.double(), [weight.double()])
    error = y.double() - expected
    assert error.mean().abs() < 0.1 * error.abs().mean()


@pytest.mark.parametrize("kernel", [1, 3])
def test_second_derivatives(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = [
        torch.randn(16, 16, kernel, kernel, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    ]

    def mixed(a: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(convolve(a, [w * scale for w in weights]))

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(mixed, (x, scale))


@pytest.mark.parametrize("kernel", [1, 3])
def test_second_derivatives_in_bfloat16(kernel: int) -> None:
    """They go through PyTorch's convolutions, which want weights of the map's dtype."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 3, 4, dtype=BFLOAT16, requires_grad=True)
    weight = torch.randn(16, 16, kernel, kernel, requires_grad=True)

    def second(x: torch.Tensor, weight: torch.Tensor, mixed: bool) -> torch.Tensor:
        (y,) = convolve(x, [weight]) if mixed else reference.convolve(x, [weight])
        (g,) = torch.autograd.grad(y.square().sum(), [x], create_graph=True)
        return torch.autograd.grad(g.square().sum(), [weight])[0]

    ours = second(x, weight, True)
    assert ours.dtype == weight.dtype
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    theirs = second(wide[0], wide[1], False)
    assert (ours.double() - theirs).norm() < 3e-2 * theirs.norm()


def test_only_wanted_gradients_are_computed() -> None:
    x = torch.randn(2, 16, 4, 4)
    weight = torch.randn(16, 16, 3, 3, requires_grad=True)
    (y,) = convolve(x, [weight])
    (grad,) = torch.autograd.grad(y.sum(), [weight])
    assert grad.shape == weight.shape
    (y,) = convolve(x.requires_grad_(), [weight.detach()])
    (grad,) = torch.autograd.grad(y.sum(), [x], retain_graph=True)
    (again,) = torch.autograd.grad(y.sum(), [x], create_graph=True)
    torch.testing.assert_close(again, grad)


def test_what_it_can_convolve() -> None:
    x, weight = torch.randn(1, 16, 4, 4), torch.randn(16, 16, 3, 3)
    assert convolves(x, weight)
    fast = _C.build_info()["cpu_capability"] == "avx512_bf16"
    assert convolves(x.bfloat16(), weight) == fast
    assert not convolves(x.bfloat16(), weight.bfloat16())
    assert not convolves(x.double(), weight)
    assert not convolves(x, torch.randn(16, 16, 5, 5))
    assert not convolves(x[:, :8], weight[:, :8])
    assert not convolves(x.to("meta"), weight.to("meta"))


def test_empty_batch() -> None:
    x = torch.randn(0, 16, 4, 4, requires_grad=True)
    weight = torch.randn(16, 16, 3, 3, requires_grad=True)
    (y,) = convolve(x, [weight])
    y.sum().backward()
    assert y.shape == (0, 16, 4, 4)
    assert weight.grad is not None
    assert weight.grad.count_nonzero() == 0


def test_wrong_arguments_are_refused() -> None:
    x, weight = torch.randn(1, 16, 4, 4), torch.randn(16, 16, 3, 3)
    with pytest.raises(ValueError, match="x must have a multiple of 16 channels, but has 8"):
        ops.convolve(x[:, :8], [weight])
    with pytest.raises(ValueError, match=r"weights must be \[K, C, k, k\] with k 1 or 3"):
        ops.convolve(x, [torch.randn(16, 16, 5, 5)])
    with pytest.raises(ValueError, match="weights are for 32 channels, but x has 16"):
        ops.convolve(x, [torch.randn(16, 32, 3, 3)])
    with pytest.raises(ValueError, match="one weight must be given at least"):
        ops.convolve(x, [])
    with pytest.raises(TypeError, match="of a map of Float must be Float, but one is Double"):
        ops.convolve(x, [weight.double()])
    with pytest.raises(TypeError, match="of a map of BFloat16 must be Float, but one is BFloat16"):
        ops.convolve(x.bfloat16(), [weight.bfloat16()])
    with pytest.raises(TypeError, match="x must be float32, float64 or bfloat16, but is Half"):
        ops.convolve(x.half(), [weight])
    with pytest.raises(ValueError, match="one gradient of 16 channels for each weight"):
        ops.convolve_backward_map([x], [weight, weight])
    with pytest.raises(ValueError, match="does not give"):
        ops.convolve_backward_weight([x[:, :, :2]], x, 3)
    with pytest.raises(ValueError, match="kernel must be 1 or 3, but is 2"):
        ops.convolve_backward_weight([x], x, 2)


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("kernel", [1, 3])
def test_opcheck(kernel: int, dtype: torch.dtype) -> None:
    x, weights = torch.randn(2, 16, 4, 4).to(dtype), [torch.randn(32, 16, kernel, kernel)] * 2
    grads = [torch.randn(2, 32, 4, 4).to(dtype)] * 2
    torch.library.opcheck(ops.convolve.default, (x, weights))
    torch.library.opcheck(ops.convolve_backward_map.default, (grads, weights))
    torch.library.opcheck(ops.convolve_backward_weight.default, (grads, x, kernel))
