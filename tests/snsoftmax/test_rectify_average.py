"""The ReLU and average of a node's map against PyTorch's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import snsoftmax  # noqa: F401  (registers the operators)

ops = torch.ops.snsoftmax
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def random_map(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 37), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(list(TOLERANCE)), st.integers(0, 3))
def test_both_directions(shape: tuple[int, ...], dtype: torch.dtype, readers: int) -> None:
    torch.manual_seed(0)
    x = random_map(shape, dtype)
    rectified, averaged = ops.rectify_average(x, True, True)
    assert torch.equal(rectified, x.relu())
    wide = x.double().requires_grad_()
    close = partial(torch.testing.assert_close, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    close(averaged.double(), average(wide))

    identity, averages = ([random_map(shape, dtype) for _ in range(n)] for n in (2, 3))
    through_relu = [random_map(shape, dtype) for _ in range(readers)]
    v, u = torch.rand(2).unbind(), torch.rand(3).unbind()
    grad = ops.rectify_average_backward(rectified, through_relu, identity, v, averages, u)
    value = torch.zeros((), dtype=torch.float64)
    for g, w in zip(identity, v, strict=True):
        value = value + w * (wide * g.double()).sum()
    for g, w in zip(averages, u, strict=True):
        value = value + w * (average(wide) * g.double()).sum()
    for g in through_relu:
        value = value + (wide.relu() * g.double()).sum()
    (expected,) = torch.autograd.grad(value, wide)
    close(grad.double(), expected)


def test_parts_that_are_not_asked_for() -> None:
    x = random_map((2, 3, 4, 4))
    rectified, averaged = ops.rectify_average(x, True, False)
    assert averaged.numel() == 0
    g = random_map((2, 3, 4, 4))
    one = torch.ones(())
    assert torch.equal(ops.rectify_average_backward(rectified, [g], [], [], [], []), g * (x > 0))
    assert torch.equal(ops.rectify_average_backward(None, [], [g], [one], [], []), g)


def test_any_layout_is_accepted() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    for layout in (x, x.transpose(2, 3).contiguous().transpose(2, 3), x[:, :, ::2]):
        rectified, averaged = ops.rectify_average(layout, True, True)
        assert torch.equal(rectified, layout.relu())
        torch.testing.assert_close(averaged, average(layout))


def test_nan_passes_through() -> None:
    x = torch.full((1, 1, 1, 1), float("nan"))
    assert ops.rectify_average(x, True, False)[0].isnan().all()


def test_empty_batch() -> None:
    x = torch.randn(0, 3, 4, 4)
    assert ops.rectify_average(x, True, True)[1].shape == x.shape


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="x must be"):
        ops.rectify_average(torch.randn(3), True, True)
    with pytest.raises(TypeError, match="x must be float32, float64 or bfloat16"):
        ops.rectify_average(torch.ones(1, 1, 2, 2, dtype=torch.int32), True, True)
    x = random_map((1, 2, 3, 4))
    with pytest.raises(ValueError, match="grad_rectified needs rectified"):
        ops.rectify_average_backward(None, [x], [], [], [], [])
    with pytest.raises(ValueError, match="identity_weights has 0 entries, but there are 1 grad"):
        ops.rectify_average_backward(None, [], [x], [], [], [])
    with pytest.raises(ValueError, match=r"has shape \[1, 2, 4, 4\], but must have \[1, 2, 3, 4\]"):
        ops.rectify_average_backward(x, [x, random_map((1, 2, 4, 4))], [], [], [], [])


def test_opcheck() -> None:
    x = random_map((2, 3, 4, 4), torch.float32)
    torch.library.opcheck(ops.rectify_average.default, (x, True, True))
    weight = torch.rand(())
    args = (x.relu(), [x, x], [x], [weight], [x, x], [weight, weight])
    torch.library.opcheck(ops.rectify_average_backward.default, args)
