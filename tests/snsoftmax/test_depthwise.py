"""The depthwise convolution against PyTorch's own in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import snsoftmax  # noqa: F401  (registers the operators)
from snsoftmax.depthwise import depthwise

ops = torch.ops.snsoftmax
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    error = (ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-3)
    assert error <= TOLERANCE[dtype]


shapes = st.tuples(st.integers(1, 3), st.integers(1, 37), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=80, deadline=None)
@given(
    shapes,
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from([3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
)
def test_both_directions(
    shape: tuple[int, ...], dtype: torch.dtype, kernel: int, stride: int, dilation: int
) -> None:
    torch.manual_seed(0)
    c = shape[1]
    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(c, 1, kernel, kernel, dtype=torch.float64)
    if dtype != torch.float64:
        weight = weight.float()
    wide, wide_weight = x.double().requires_grad_(), weight.double().requires_grad_()
    padding = dilation * (kernel // 2)
    expected = F.conv2d(wide, wide_weight, None, stride, padding, dilation, c)
    x.requires_grad_()
    weight.requires_grad_()
    y = depthwise(x, weight, stride, dilation)
    assert y.dtype == dtype
    close(y, expected, dtype)
    g = torch.randn_like(y)
    y.backward(g)
    expected.backward(g.double())
    assert x.grad is not None
    assert weight.grad is not None
    assert wide.grad is not None
    assert wide_weight.grad is not None
    close(x.grad, wide.grad, dtype)
    close(weight.grad, wide_weight.grad, dtype)


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
    ours, theirs = depthwise(y, weight, 1, 1), F.conv2d(y, weight, None, 1, 1, 1, 5)
    close(ours, theirs, torch.float64)
    found = torch.autograd.grad(ours, (y, weight), grad)
    for got, want in zip(found, torch.autograd.grad(theirs, (y, weight), grad), strict=True):
        close(got, want, torch.float64)


def test_second_derivatives() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a, b: depthwise(a, b, 2, 1), (x, weight))


def test_empty_batch() -> None:
    y = depthwise(torch.randn(0, 3, 4, 4), torch.randn(3, 1, 3, 3), 2, 1)
    assert y.shape == (0, 3, 2, 2)


def test_wrong_arguments_are_refused() -> None:
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(2, 1, 3, 3)
    with pytest.raises(ValueError, match=r"weight must be \[2, 1, k, k\] with k 3 or 5"):
        ops.depthwise(x, torch.randn(2, 1, 7, 7), 1, 1)
    with pytest.raises(ValueError, match="stride must be 1 or 2, but is 3"):
        ops.depthwise(x, weight, 3, 1)
    with pytest.raises(TypeError, match="weight must be Float for Float maps, but is Double"):
        ops.depthwise(x, weight.double(), 1, 1)
    with pytest.raises(ValueError, match="does not give"):
        ops.depthwise_backward_map(x, weight, 4, 4, 2, 1)
    with pytest.raises(ValueError, match="does not give"):
        ops.depthwise_backward_weight(x[:, :, :1], x, 3, 1, 1)
    with pytest.raises(ValueError, match="kernel must be 3 or 5, but is 4"):
        ops.depthwise_backward_weight(x, x, 4, 1, 1)
    with pytest.raises(ValueError, match="stride must be 1 or 2, but is 0"):
        ops.depthwise_backward_weight(x, x, 3, 0, 1)
    with pytest.raises(TypeError, match="grad must be Float as x is, but is Double"):
        ops.depthwise_backward_weight(x.double(), x, 3, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32])
def test_each_direction_refuses_the_same_dtypes(dtype: torch.dtype) -> None:
    """float16 has CUDA kernels only."""
    x, weight = torch.ones(1, 2, 4, 4, dtype=dtype), torch.ones(2, 1, 3, 3)
    kind = "Half" if dtype == torch.float16 else "Int"
    sentence = f"must be float32, float64, bfloat16 or, on CUDA, float16, but is {kind} on cpu"
    with pytest.raises(TypeError, match=f"x {sentence}"):
        ops.depthwise(x, weight, 1, 1)
    with pytest.raises(TypeError, match=f"grad {sentence}"):
        ops.depthwise_backward_map(x, weight, 4, 4, 1, 1)
    with pytest.raises(TypeError, match=f"x {sentence}"):
        ops.depthwise_backward_weight(x, x, 3, 1, 1)


def test_opcheck() -> None:
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(3, 1, 3, 3)
    torch.library.opcheck(ops.depthwise.default, (x, weight, 1, 2))
    torch.library.opcheck(ops.depthwise_backward_map.default, (x, weight, 4, 4, 1, 2))
    torch.library.opcheck(ops.depthwise_backward_weight.default, (x, x, 3, 1, 2))


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float16])
@pytest.mark.parametrize("channels", [16, 37])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_operators_on_a_gpu(
    cuda: torch.device, dtype: torch.dtype, channels: int, kernel: int, stride: int, dilation: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, channels, 19, 15, device=cuda).to(dtype)
    weight = torch.randn(channels, 1, kernel, kernel, device=cuda)
    weight = weight.double() if dtype == torch.float64 else weight
    wide, wide_weight = x.double().requires_grad_(), weight.double().requires_grad_()
    padding = dilation * (kernel // 2)
    expected = F.conv2d(wide, wide_weight, None, stride, padding, dilation, channels)
    y = ops.depthwise(x, weight, stride, dilation)
    grad = torch.randn_like(y)
    tolerance = TOLERANCE.get(dtype, 2e-3)
    found = (
        y,
        ops.depthwise_backward_map(grad, weight, 19, 15, stride, dilation),
        ops.depthwise_backward_weight(grad, x, kernel, stride, dilation),
    )
    wanted = expected, *torch.autograd.grad(expected, (wide, wide_weight), grad.double())
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()
