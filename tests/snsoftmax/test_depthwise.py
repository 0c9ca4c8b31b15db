"""The depthwise convolutions against PyTorch's own in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snsoftmax import reference
from snsoftmax.depthwise import Normalization, convolved, depthwise, gradients, kernels, kernels_for

ops = torch.ops.snsoftmax
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
ON_CPU = [torch.float64, torch.float32, torch.bfloat16]


def close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    error = (ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-3)
    assert error <= TOLERANCE[dtype]


def opmath(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def draw_weights(
    channels: int, kernel: int, inside: Sequence[int], dtype: torch.dtype, device: str = "cpu"
) -> list[Tensor]:
    """One weight for each of ``inside``, with so many convolutions in it."""
    return [
        torch.randn(m * channels, 1, kernel, kernel, dtype=opmath(dtype), device=device)
        for m in inside
    ]


def wide(values: Sequence[Tensor]) -> list[Tensor]:
    return [v.detach().double().requires_grad_() for v in values]


shapes = st.tuples(st.integers(1, 3), st.integers(1, 37), st.integers(1, 9), st.integers(1, 9))
EDGES = [(1,), (1, 1, 1), (4,), (2, 2)]
"""How many convolutions there are in each weight."""


def read_as_double(
    x: Tensor, weights: Sequence[Tensor], normalization: Normalization | None = None
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Leaves in float64: what is convolved, before its ReLU; the weights; and what is convolved."""
    read = x.detach().double()
    if normalization is not None:
        mean, rstd = (s.double()[:, None, None] for s in normalization)
        read = (read - mean) * rstd
    read.requires_grad_()
    return read, wide(weights), read if normalization is None else read.relu()


def agree(
    x: Tensor,
    weights: Sequence[Tensor],
    stride: int,
    dilations: Sequence[int],
    together: Sequence[int] | None = None,
    normalization: Normalization | None = None,
) -> None:
    """Results and gradients of our own kernels are those of PyTorch's in float64."""
    read, wide_weights, convolves = read_as_double(x, weights, normalization)
    expected = reference.depthwise(convolves, wide_weights, stride, dilations, together)
    ys = convolved(x, weights, stride, dilations, together, normalization)
    grads = [torch.randn_like(y) for y in ys]
    needs = [True] * (1 + len(weights))
    found = gradients(grads, x, weights, stride, dilations, needs, normalization)
    wanted = torch.autograd.grad(expected, (read, *wide_weights), [g.double() for g in grads])
    for ours, theirs in zip([*ys, *found], [*expected, *wanted], strict=True):
        assert ours is not None
        assert ours.shape == theirs.shape
        close(ours, theirs, x.dtype)


WINDOWS = ((3, 1), (5, 1), (3, 2), (5, 2))
"""Kernel sizes and dilations."""


def mixed(
    channels: int,
    windows: Sequence[tuple[int, int]],
    inside: Sequence[int],
    dtype: torch.dtype,
    device: str = "cpu",
) -> tuple[list[Tensor], list[int]]:
    """A weight for each window, with so many convolutions, and the dilations."""
    weights = [
        draw_weights(channels, kernel, [m], dtype, device)[0]
        for (kernel, _), m in zip(windows, inside, strict=True)
    ]
    return weights, [dilation for _, dilation in windows]


@settings(max_examples=80, deadline=None)
@given(
    shapes,
    st.sampled_from(ON_CPU),
    st.sampled_from([3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from(EDGES),
)
def test_both_directions(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    kernel: int,
    stride: int,
    dilation: int,
    inside: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
    inputs = [x, *draw_weights(shape[1], kernel, inside, dtype)]
    wide_x, *wide_weights = wide(inputs)
    dilations = [dilation] * len(inside)
    expected = reference.depthwise(wide_x, wide_weights, stride, dilations)
    for i in inputs:
        i.requires_grad_()
    ys = depthwise(inputs[0], inputs[1:], stride, dilations)
    grads = [torch.randn_like(y) for y in ys]
    found = torch.autograd.grad(ys, inputs, grads)
    wanted = torch.autograd.grad(expected, [wide_x, *wide_weights], [g.double() for g in grads])
    for ours, theirs in zip([*ys, *found], [*expected, *wanted], strict=True):
        assert ours.shape == theirs.shape
        close(ours, theirs, dtype)
    assert {y.dtype for y in ys} == {dtype}


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    st.sampled_from(ON_CPU),
    st.sampled_from([3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from(EDGES),
)
def test_reads_a_map_through_its_normalisation(
    shape: tuple[int, ...], dtype: torch.dtype, kernel: int, stride: int, inside: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    channels = shape[1]
    x = torch.randn(shape).to(dtype)
    weights = draw_weights(channels, kernel, inside, dtype)
    mean, rstd = (torch.randn(channels, dtype=opmath(dtype)) for _ in range(2))
    agree(x, weights, stride, [1] * len(weights), None, Normalization(mean, rstd.abs() + 0.1))


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    st.sampled_from(ON_CPU),
    st.permutations(WINDOWS),
    st.sampled_from([1, 2]),
    st.sampled_from([(1, 1, 1, 1), (2, 1, 3, 1)]),
    st.sampled_from([None, (4,), (2, 2), (1, 3)]),
    st.booleans(),
)
def test_windows_of_several_kinds(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    windows: list[tuple[int, int]],
    stride: int,
    inside: tuple[int, ...],
    together: tuple[int, ...] | None,
    rectified: bool,
) -> None:
    """One read of the map, one sum of its gradient, results beside each other."""
    torch.manual_seed(0)
    channels = shape[1]
    weights, dilations = mixed(channels, windows, inside, dtype)
    statistics = torch.randn(2, channels, dtype=opmath(dtype))
    normalization = Normalization(statistics[0], statistics[1].abs() + 0.1) if rectified else None
    agree(torch.randn(shape).to(dtype), weights, stride, dilations, together, normalization)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.integers(1, 17), min_size=2, max_size=4),
    st.sampled_from(ON_CPU),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
)
def test_weights_that_share_out_the_channels(
    shape: tuple[int, int, int],
    widths: list[int],
    dtype: torch.dtype,
    stride: int,
    in_one: bool,
    rectified: bool,
) -> None:
    torch.manual_seed(0)
    images, height, width = shape
    x = torch.randn(images, sum(widths), height, width).to(dtype)
    windows = WINDOWS[: len(widths)]
    weights = [
        draw_weights(own, kernel, [1], dtype)[0]
        for own, (kernel, _) in zip(widths, windows, strict=True)
    ]
    dilations = [dilation for _, dilation in windows]
    statistics = torch.randn(2, x.shape[1], dtype=opmath(dtype))
    normalization = Normalization(statistics[0], statistics[1].abs() + 0.1) if rectified else None
    together = [len(widths)] if in_one else None
    agree(x, weights, stride, dilations, together, normalization)


def test_nothing_that_is_not_needed() -> None:
    x, (weight,) = torch.randn(2, 3, 4, 4), draw_weights(3, 3, [1], torch.float32)
    grads = [torch.randn(2, 3, 4, 4)]
    assert gradients(grads, x, [weight], 1, [1], [True, False])[1] is None
    assert gradients(grads, x, [weight], 1, [1], [False, True])[0] is None


def test_keeps_a_nan() -> None:
    """What is no number shows in all results that read it."""
    x, weights = torch.zeros(1, 1, 3, 3), draw_weights(1, 3, [1], torch.float32)
    x[0, 0, 1, 1] = torch.nan
    normalization = Normalization(torch.zeros(1), torch.ones(1))
    assert convolved(x, weights, 1, [1], None, normalization)[0].isnan().all()


LAYOUTS = {
    "contiguous": lambda g: g.contiguous(),
    "channels_last": lambda g: g.contiguous(memory_format=torch.channels_last),
    "transposed": lambda g: g.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda g: g[:, :1].expand_as(g),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_map", LAYOUTS)
def test_any_layout(layout: str, of_map: str) -> None:
    """A convolution hands on maps and gradients as its library likes to lay them."""
    torch.manual_seed(0)
    y = LAYOUTS[of_map](torch.randn(3, 5, 4, 6, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(5, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    grad = LAYOUTS[layout](torch.randn(3, 5, 4, 6, dtype=torch.float64))
    (ours,), (theirs,) = (make(y, [weight], 1, [1]) for make in (depthwise, reference.depthwise))
    close(ours, theirs, torch.float64)
    found = torch.autograd.grad(ours, (y, weight), grad)
    for got, want in zip(found, torch.autograd.grad(theirs, (y, weight), grad), strict=True):
        close(got, want, torch.float64)


@pytest.mark.parametrize("inside", [(1,), (2, 2)])
def test_second_derivatives(inside: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = [w.requires_grad_() for w in draw_weights(3, 3, inside, torch.float64)]
    dilations = [1] * len(weights)
    assert torch.autograd.gradgradcheck(lambda a, *b: depthwise(a, b, 2, dilations), (x, *weights))


def test_second_derivatives_of_several_kinds() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    weights, dilations = mixed(3, WINDOWS[:2], [1, 2], torch.float64)
    inputs = (x, *(w.requires_grad_() for w in weights))
    assert torch.autograd.gradgradcheck(lambda a, *b: depthwise(a, b, 1, dilations, [2]), inputs)


def test_empty_batch() -> None:
    x, weight = torch.randn(0, 3, 4, 4), torch.randn(3, 1, 3, 3, requires_grad=True)
    (y,) = depthwise(x, [weight], 2, [1])
    assert y.shape == (0, 3, 2, 2)
    assert torch.autograd.grad(y.sum(), weight)[0].equal(torch.zeros_like(weight))


def test_wrong_arguments_are_refused() -> None:
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(2, 1, 3, 3)
    plain, alone = (None, None), (1, [1], [1])
    with pytest.raises(ValueError, match=r"must be \[C, 1, k, k\] with k 3 or 5, but one has"):
        ops.depthwise(x, [torch.randn(2, 1, 7, 7)], *plain, *alone)
    with pytest.raises(ValueError, match="have multiples of 2 kernels, or as many together, but"):
        ops.depthwise(x, [torch.randn(3, 1, 3, 3)], *plain, *alone)
    with pytest.raises(ValueError, match="one weight must be given at least"):
        ops.depthwise(x, [], *plain, 1, [], [])
    for device in ("cpu", "meta"):
        many = [weight.to(device)] * 65
        with pytest.raises(ValueError, match="at most 64 edges can leave a map, but there are 65"):
            ops.depthwise(x.to(device), many, *plain, 1, [1] * 65, [1] * 65)
    with pytest.raises(ValueError, match="stride must be 1 or 2, but is 3"):
        ops.depthwise(x, [weight], *plain, 3, [1], [1])
    with pytest.raises(ValueError, match="dilation must be from 1 to 268435455, but is 0"):
        ops.depthwise(x, [weight], *plain, 1, [0], [1])
    with pytest.raises(ValueError, match="a dilation for each of 2 weights, but there are 1"):
        ops.depthwise(x, [weight] * 2, *plain, 1, [1], [2])
    with pytest.raises(ValueError, match=r"together must add up to 2 weights, but is \[1\]"):
        ops.depthwise(x, [weight] * 2, *plain, 1, [1, 1], [1])
    with pytest.raises(ValueError, match="together must be positive, but one is 0"):
        ops.depthwise(x, [weight], *plain, 1, [1], [1, 0])
    with pytest.raises(ValueError, match="x must have channels and pixels"):
        ops.depthwise(x[:, :0], [weight], *plain, *alone)
    with pytest.raises(ValueError, match="x must have channels and pixels"):
        ops.depthwise(x[:, :, :0], [weight], *plain, *alone)
    with pytest.raises(TypeError, match="weights must be Float for Float maps, but one is Double"):
        ops.depthwise(x, [weight.double()], *plain, *alone)
    with pytest.raises(ValueError, match="mean and rstd go together"):
        ops.depthwise(x, [weight], torch.zeros(2), None, *alone)
    with pytest.raises(ValueError, match=r"mean and rstd must be \[2\] on cpu"):
        ops.depthwise(x, [weight], torch.zeros(3), torch.zeros(2), *alone)
    with pytest.raises(TypeError, match="mean and rstd must be Float"):
        ops.depthwise(x, [weight], torch.zeros(2), torch.zeros(2).double(), *alone)
    with pytest.raises(ValueError, match="does not give"):
        ops.depthwise_backward_map([x], [weight], x.shape, None, *plain, 2, [1])
    with pytest.raises(ValueError, match="x, mean and rstd go together"):
        ops.depthwise_backward_map([x], [weight], x.shape, x, *plain, 1, [1])
    with pytest.raises(ValueError, match="2 channels, which are not those of the next weights'"):
        ops.depthwise_backward_map([x, x], [weight], x.shape, None, *plain, 1, [1])
    with pytest.raises(ValueError, match="gradients for 2 weights, but they are for 1"):
        ops.depthwise_backward_map([x], [weight] * 2, x.shape, None, *plain, 1, [1, 1])
    with pytest.raises(ValueError, match="does not give"):
        ops.depthwise_backward_weight([x[:, :, :1]], x, [weight], *plain, 1, [1])
    with pytest.raises(ValueError, match="stride must be 1 or 2, but is 0"):
        ops.depthwise_backward_weight([x], x, [weight], *plain, 0, [1])
    with pytest.raises(TypeError, match="weights must be Double for Double maps"):
        ops.depthwise_backward_weight([x.double()], x, [weight], *plain, 1, [1])
    with pytest.raises(TypeError, match="grads must be Float as x is, but are BFloat16"):
        ops.depthwise_backward_weight([x.bfloat16()], x, [weight], *plain, 1, [1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("together", [[1], [3], [2, 1], [2, 0]])
def test_maps_must_hold_the_weights(dtype: torch.dtype, together: list[int]) -> None:
    """By our own kernels and by PyTorch's."""
    x, weights = torch.ones(1, 2, 4, 4, dtype=dtype), [torch.ones(2, 1, 3, 3)] * 2
    with pytest.raises(ValueError, match="must be positive and add up to 2 weights, at least one"):
        depthwise(x, weights, 1, [1, 1], together)
    with pytest.raises(ValueError, match="add up to 0 weights, at least one"):
        depthwise(x, [], 1, [])


@pytest.mark.parametrize("together", [None, [20, 10, 35]])
def test_more_edges_than_a_call_takes(together: list[int] | None) -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    windows = [WINDOWS[i % 2] for i in range(65)]
    weights, dilations = mixed(2, windows, [1 + i % 2 for i in range(65)], torch.float64)
    inputs = [x, *(w.requires_grad_() for w in weights)]
    ours = depthwise(x, weights, 1, dilations, together)
    theirs = reference.depthwise(x, weights, 1, dilations, together)
    grads = [torch.randn_like(y) for y in theirs]
    found, wanted = (torch.autograd.grad(ys, inputs, grads) for ys in (ours, theirs))
    for got, want in zip([*ours, *found], [*theirs, *wanted], strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32])
def test_each_direction_refuses_the_same_dtypes(dtype: torch.dtype) -> None:
    """float16 has CUDA kernels only."""
    x, weight = torch.ones(1, 2, 4, 4, dtype=dtype), torch.ones(2, 1, 3, 3)
    kind = "Half" if dtype == torch.float16 else "Int"
    sentence = f"must be float32, float64, bfloat16 or, on CUDA, float16, but is {kind} on cpu"
    with pytest.raises(TypeError, match=f"x {sentence}"):
        ops.depthwise(x, [weight], None, None, 1, [1], [1])
    with pytest.raises(TypeError, match=f"grads {sentence}"):
        ops.depthwise_backward_map([x], [weight], x.shape, None, None, None, 1, [1])
    with pytest.raises(TypeError, match=f"x {sentence}"):
        ops.depthwise_backward_weight([x], x, [weight], None, None, 1, [1])


def test_whose_kernels() -> None:
    """Our own for what they take; the library for all else, which then computes the same."""
    for device, dtypes in {"cpu": ON_CPU, "meta": list(TOLERANCE), "cuda": []}.items():
        for dtype in TOLERANCE:
            expected = "own" if dtype in dtypes else "library"
            assert kernels(device, dtype, 3, 1, 1) == expected
            assert kernels(device, dtype, 5, 2, 2) == expected
    assert kernels("cuda", torch.float16, 3, 1, 1, untried=True) == "own"
    assert kernels("cuda", torch.float16, 7, 1, 1, untried=True) == "library"
    assert kernels("cpu", torch.float16, 3, 1, 1, untried=True) == "library"
    for kernel, stride, dilation in ((7, 1, 1), (1, 1, 1), (3, 3, 1), (3, 1, 0)):
        assert kernels("meta", torch.float32, kernel, stride, dilation) == "library"
    x = torch.randn(2, 4, 6, 6)
    weight = torch.randn(4, 1, 3, 3)
    assert kernels_for(x, weight, 1, 1) == kernels_for(x.bfloat16(), weight, 1, 1) == "own"
    for wrong in (weight.bfloat16(), weight.double()):
        assert kernels_for(x, wrong, 1, 1) == "library"
    x = x.half()
    weights = draw_weights(4, 3, [1, 1], torch.float32)
    wanted = reference.depthwise(x.double(), [w.double() for w in weights], 2, [1, 1])
    for ours, theirs in zip(depthwise(x, weights, 2, [1, 1]), wanted, strict=True):
        close(ours, theirs, torch.float16)


def test_opcheck() -> None:
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(6, 1, 3, 3)
    grads, statistics = [torch.randn(2, 6, 4, 4)], (torch.zeros(3), torch.ones(3))
    check = torch.library.opcheck
    check(ops.depthwise.default, (x, [weight], *statistics, 1, [2], [1]))
    check(ops.depthwise_backward_map.default, (grads, [weight], x.shape, x, *statistics, 1, [2]))
    check(ops.depthwise_backward_weight.default, (grads, x, [weight], *statistics, 1, [2]))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [16, 37])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("inside", [(1,), (6,), (1, 1)])
@pytest.mark.parametrize("rectified", [False, True])
def test_operators_on_a_gpu(
    cuda: torch.device,
    dtype: torch.dtype,
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    inside: tuple[int, ...],
    rectified: bool,
) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, channels, 19, 15, device=cuda).to(dtype)
    weights = draw_weights(channels, kernel, inside, dtype, str(cuda))
    statistics = torch.randn(2, channels, dtype=opmath(dtype), device=cuda)
    normalization = Normalization(statistics[0], statistics[1].abs()) if rectified else None
    agree(x, weights, stride, [dilation] * len(weights), None, normalization)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [16, 37])
@pytest.mark.parametrize("apart", [False, True])
def test_windows_of_several_kinds_on_a_gpu(
    cuda: torch.device, dtype: torch.dtype, stride: int, channels: int, apart: bool
) -> None:
    torch.manual_seed(0)
    weights, dilations = mixed(channels, WINDOWS, [1] * 4 if apart else [2, 1, 5, 1], dtype, "cuda")
    x = torch.randn(4, channels * (4 if apart else 1), 19, 15, device=cuda).to(dtype)
    statistics = torch.randn(2, x.shape[1], dtype=opmath(dtype), device=cuda)
    normalization = Normalization(statistics[0], statistics[1].abs())
    for read in (None, normalization):
        for together in (None, [2, 2]):
            agree(x, weights, stride, dilations, together, read)
