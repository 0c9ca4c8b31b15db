"""The convolutions that share their input against PyTorch's own in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snsoftmax import _C, reference
from snsoftmax.convolve import (
    NormalizedGradient,
    convolve,
    convolve_strided,
    convolve_to_normalize,
    convolves,
)

ops = torch.ops.snsoftmax
BFLOAT16 = torch.bfloat16
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, BFLOAT16: 8e-3}
WEIGHT_OF = {BFLOAT16: torch.float32}
"""The dtype of weights where it is not the map's."""


KERNELS = st.lists(st.sampled_from([1, 3]), min_size=3, max_size=3)
"""Sizes of convolutions that leave a map together, mixed or not."""


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


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 4), st.integers(1, 37), st.integers(1, 37)),
    st.sampled_from([16, 32, 48]),
    st.sampled_from([16, 32, 48]),
    st.sampled_from([1, 3]),
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from([1, 2]),
)
def test_stride_2_in_both_directions(
    size: tuple[int, int, int], c: int, k: int, kernel: int, dtype: torch.dtype, count: int
) -> None:
    torch.manual_seed(0)
    n, height, width = size
    x = torch.randn(n, c, height, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(k, c, kernel, kernel, dtype=WEIGHT_OF.get(dtype, dtype)).requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    (expected,) = reference.convolve(wide[0], wide[1:], 2)
    grad = torch.randn(expected.shape, dtype=dtype)
    with threads(count):
        found = convolve_strided(x, weight)
        our_grads = torch.autograd.grad(found, [x, weight], grad)
    their_grads = torch.autograd.grad(expected, wide, grad.double())
    for ours, theirs in zip((found, *our_grads), (expected, *their_grads), strict=True):
        assert ours.shape == theirs.shape
        close(ours, theirs, dtype)
    assert [t.dtype for t in (found, *our_grads)] == [dtype, dtype, weight.dtype]


@pytest.mark.parametrize("kernel", [1, 3])
def test_second_derivatives_at_stride_2(kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, 16, kernel, kernel, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a, s: convolve_strided(a, weight * s), (x, scale))
    y = convolve_strided(x, weight)
    (of_map,) = torch.autograd.grad(y.square().sum(), [x], create_graph=True)
    (again,) = torch.autograd.grad(of_map.square().sum(), [x])
    wide = x.detach().requires_grad_()
    (expected,) = reference.convolve(wide, [weight], 2)
    (theirs,) = torch.autograd.grad(expected.square().sum(), [wide], create_graph=True)
    (expected_again,) = torch.autograd.grad(theirs.square().sum(), [wide])
    torch.testing.assert_close(again, expected_again)


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


class Reader(torch.autograd.Function):
    """Reads a map and hands a gradient and a line over in place of returning what they give."""

    @staticmethod
    def forward(
        ctx: Any,
        map: torch.Tensor,
        to: NormalizedGradient,
        gradient: torch.Tensor,
        line: torch.Tensor,
    ) -> torch.Tensor:
        ctx.handed = to, gradient, line
        return map.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> tuple[None, ...]:
        to, *handed = ctx.handed
        to.hand(*handed)
        return None, None, None, None


def on_line(line: torch.Tensor, gradient: torch.Tensor, map: torch.Tensor) -> torch.Tensor:
    """slope g + tilt (y - mean) + shift in float64."""
    mean, slope, tilt, shift = (part.double().view(-1, 1, 1) for part in line)
    found: torch.Tensor = slope * gradient.double() + tilt * (map.double() - mean) + shift
    return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 11), st.integers(1, 11)),
    st.sampled_from([16, 32, 48]),
    st.lists(st.sampled_from(["handed", "autograd", "both", "nothing"]), min_size=1, max_size=3),
    KERNELS,
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from([1, 3]),
)
def test_gradients_that_readers_hand_over(
    size: tuple[int, int, int],
    c: int,
    ways: Sequence[str],
    kernels: Sequence[int],
    dtype: torch.dtype,
    count: int,
) -> None:
    """However they come, and with more threads than images too."""
    torch.manual_seed(0)
    n, height, width = size
    x = torch.randn(n, c, height, width, dtype=dtype, requires_grad=True)
    weight_dtype = WEIGHT_OF.get(dtype, dtype)
    weights = [
        torch.randn(32, c, kernel, kernel, dtype=weight_dtype, requires_grad=True)
        for kernel, _ in zip(kernels, ways, strict=False)
    ]
    with threads(count):
        found = convolve_to_normalize(x, weights, False)
        wide = [t.detach().double().requires_grad_() for t in (x, *weights)]
        expected = reference.convolve(wide[0], wide[1:])
        loss, grads = x.new_zeros(()), []
        for (y, moments, to), way in zip(found, ways, strict=True):
            assert moments is None
            line = torch.randn(4, 32, dtype=weight_dtype)
            handed, direct = torch.randn_like(y), torch.randn_like(y)
            grad = torch.zeros_like(y, dtype=torch.float64)
            if way in ("handed", "both"):
                loss = loss + Reader.apply(y, to, handed, line)
                grad += on_line(line, handed, y.detach())
            if way in ("autograd", "both"):
                loss = loss + (y * direct).sum()
                grad += direct.double()
            grads.append(grad)
        ours = torch.autograd.grad(loss + 0 * x.sum(), [x, *weights], allow_unused=True)
    theirs = torch.autograd.grad(expected, wide, grads)
    for a, b in zip(ours, theirs, strict=True):
        close(torch.zeros_like(b) if a is None else a, b, dtype)


@pytest.mark.parametrize("needs", ["map", "weights"])
@pytest.mark.parametrize("kernels", [[1], [3], [1, 3, 1]])
@pytest.mark.parametrize("images", [1, 3])
def test_only_wanted_gradients_are_formed(needs: str, kernels: list[int], images: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(images, 16, 5, 4, requires_grad=needs == "map")
    weights = [torch.randn(32, 16, k, k, requires_grad=needs == "weights") for k in kernels]
    gradient, line = torch.randn(images, 32, 5, 4), torch.randn(4, 32)
    wanted = [x] if needs == "map" else weights
    with threads(2):
        found = convolve_to_normalize(x, weights, True)
        read = sum(Reader.apply(y, to, gradient, line) for y, _, to in found)
        ours = torch.autograd.grad(read, wanted)
    plain = [convolve(x, [w])[0] for w in weights]
    grads = [on_line(line, gradient, y.detach()).float() for y in plain]
    theirs = torch.autograd.grad(plain, wanted, grads)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b.double(), torch.float32)


def test_what_was_handed_over_in_another_pass_is_gone() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 4, 4, requires_grad=True)
    (y, _, to) = convolve_to_normalize(x, [torch.randn(16, 16, 3, 3)], False)[0]
    to.hand(torch.full_like(y, torch.nan), torch.ones(4, 16))
    (expected,) = torch.autograd.grad(y.sum(), [x], retain_graph=True)
    assert expected.isfinite().all()
    (again,) = torch.autograd.grad(y.sum(), [x])
    assert torch.equal(again, expected)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 11), st.integers(1, 11)),
    KERNELS,
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from([1, 3]),
)
def test_moments_are_those_of_the_maps(
    size: tuple[int, int, int], kernels: Sequence[int], dtype: torch.dtype, count: int
) -> None:
    torch.manual_seed(0)
    n, height, width = size
    x = 5 + torch.randn(n, 16, height, width, dtype=dtype)
    weights = [
        torch.randn(32, 16, kernel, kernel, dtype=WEIGHT_OF.get(dtype, dtype)) for kernel in kernels
    ]
    with threads(count):
        found = convolve_to_normalize(x, weights, True)
    for (y, moments, _), weight in zip(found, weights, strict=True):
        (expected,) = convolve(x, [weight])
        assert torch.equal(y, expected)
        assert moments is not None
        pixels = y.double().transpose(0, 1).flatten(1)
        mean, m2 = pixels.mean(1), (pixels - pixels.mean(1, keepdim=True)).square().sum(1)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(moments[0], mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(moments[1], m2, rtol=tolerance, atol=tolerance)


def test_moments_of_no_images() -> None:
    weights = [torch.randn(16, 16, 3, 3, requires_grad=True)]
    ((y, moments, to),) = convolve_to_normalize(torch.randn(0, 16, 4, 4), weights, True)
    assert moments is not None
    assert moments.count_nonzero() == 0
    Reader.apply(y, to, torch.randn_like(y), torch.ones(4, 16)).backward()
    assert weights[0].grad is not None
    assert weights[0].grad.count_nonzero() == 0


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


def test_more_convolutions_than_one_size_may_have() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 3, 3, requires_grad=True)
    weights = [torch.randn(16, 16, k, k) for k in (1, 3) for _ in range(40)]
    gradient, line = torch.randn(1, 16, 3, 3), torch.randn(4, 16)
    with threads(2):  # more than images
        found = convolve_to_normalize(x, weights, True)
        read = sum(Reader.apply(y, to, gradient, line) for y, _, to in found)
        (ours,) = torch.autograd.grad(read, [x])
    plain = [convolve(x, [w])[0] for w in weights]
    grads = [on_line(line, gradient, y.detach()).float() for y in plain]
    (theirs,) = torch.autograd.grad(plain, [x], grads)
    close(ours, theirs.double(), torch.float32)


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
    line = torch.ones(4, 16)
    with pytest.raises(ValueError, match="a map and a line for each of the 1 gradients"):
        ops.convolve_normalized_backward([x], [x], [line, line], x, [weight], True)
    with pytest.raises(ValueError, match=r"maps\[0\] has shape \[1, 16, 4, 2\]"):
        ops.convolve_normalized_backward([x], [x[..., :2]], [line], x, [weight], True)
    with pytest.raises(TypeError, match=r"maps\[0\] is Double, but its gradient Float"):
        ops.convolve_normalized_backward([x], [x.double()], [line], x, [weight], True)
    with pytest.raises(ValueError, match=r"lines\[0\] must be \[4, 16\], but is \[3, 16\]"):
        ops.convolve_normalized_backward([x], [x], [line[:3]], x, [weight], True)
    with pytest.raises(TypeError, match=r"lines\[0\] must be Float, but is Double"):
        ops.convolve_normalized_backward([x], [x], [line.double()], x, [weight], True)
    with pytest.raises(ValueError, match="does not give at stride 2"):
        ops.convolve_strided_backward_weight(x, x, 3)
    with pytest.raises(ValueError, match="a map of 4 x 4 pixels does not give at stride 2"):
        ops.convolve_strided_backward_map(x, weight, 4, 4)
    with pytest.raises(ValueError, match="weights are for 32 channels, but x has 16"):
        ops.convolve_strided(x, torch.randn(16, 32, 3, 3))
    with pytest.raises(ValueError, match="at most 64 convolutions are taken together"):
        ops.convolve_moments(x, [weight] * 65)


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("kernel", [1, 3])
def test_opcheck(kernel: int, dtype: torch.dtype) -> None:
    x, weights = torch.randn(2, 16, 4, 4).to(dtype), [torch.randn(32, 16, kernel, kernel)] * 2
    grads = [torch.randn(2, 32, 4, 4).to(dtype)] * 2
    torch.library.opcheck(ops.convolve.default, (x, weights))
    torch.library.opcheck(ops.convolve_backward_map.default, (grads, weights))
    torch.library.opcheck(ops.convolve_backward_weight.default, (grads, x, kernel))
    weights.append(torch.randn(32, 16, 1, 1))
    grads = [*grads, grads[0]]
    torch.library.opcheck(ops.convolve_moments.default, (x, weights))
    lines = [torch.randn(4, 32)] * 3
    for of_x, of_map in ((x, True), (None, True), (x, False)):
        arguments = grads, grads, lines, of_x, weights, of_map
        torch.library.opcheck(ops.convolve_normalized_backward.default, arguments)


@pytest.mark.parametrize("kernel", [1, 3])
def test_opcheck_at_stride_2(kernel: int) -> None:
    x, weight = torch.randn(2, 16, 5, 4), torch.randn(32, 16, kernel, kernel)
    grad = torch.randn(2, 32, 3, 2)
    torch.library.opcheck(ops.convolve_strided.default, (x, weight))
    torch.library.opcheck(ops.convolve_strided_backward_map.default, (grad, weight, 5, 4))
    torch.library.opcheck(ops.convolve_strided_backward_weight.default, (grad, x, kernel))
