"""1x1 convolutions of several edges, against PyTorch's grouped ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from darts.supernet.pointwise import CHUNKS, pointwise

Drawn = tuple[Tensor, Tensor, Tensor]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def draw(shape: tuple[int, ...], edges: int, wider: int, dtype: torch.dtype) -> Drawn:
    """A map, the kernels of ``edges``, and a gradient of the result."""
    torch.manual_seed(0)
    n, c, h, w = shape
    x = torch.randn(n, edges * c, h, w)
    weight = torch.randn(edges * c * wider, c, 1, 1)
    return (
        laid_out(x, dtype),
        laid_out(weight, dtype),
        laid_out(torch.randn(n, len(weight), h, w), dtype),
    )


def laid_out(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t.to(dtype).to(memory_format=torch.channels_last)


def solve(drawn: Sequence[Tensor], edges: int, ours: bool) -> list[Tensor]:
    x, weight, grad = drawn
    inputs = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = pointwise(*inputs, edges) if ours else F.conv2d(*inputs, groups=edges)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.integers(2, 5),
    st.integers(1, 2),
    st.sampled_from(list(TOLERANCE)),
)
def test_values_and_gradients(
    shape: tuple[int, ...], edges: int, wider: int, dtype: torch.dtype
) -> None:
    drawn = draw(shape, edges, wider, dtype)
    wanted = solve([t.double() for t in drawn], edges, ours=False)
    for got, want in zip(solve(drawn, edges, ours=True), wanted, strict=True):
        assert got.shape == want.shape
        assert got.dtype == dtype
        assert (got.double() - want).norm() <= TOLERANCE[dtype] * want.norm()


def test_a_map_of_another_layout_is_taken() -> None:
    drawn = draw((2, 4, 6, 5), 3, 1, torch.float64)
    wanted = solve(drawn, 3, ours=False)
    found = solve([t.contiguous() for t in drawn], 3, ours=True)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_kernels_in_float32_of_narrow_maps_get_their_gradient() -> None:
    x, weight, grad = draw((4, 16, 8, 8), 3, 1, torch.bfloat16)
    wide = weight.float().requires_grad_()
    y = pointwise(x, wide, 3)
    assert y.dtype == torch.bfloat16
    (found,) = torch.autograd.grad(y, wide, grad)
    assert found.dtype == torch.float32


def test_derivatives_of_every_order() -> None:
    x, weight = (t.requires_grad_() for t in draw((2, 2, 3, 2), 2, 1, torch.float64)[:2])

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return pointwise(x, weight, 2)

    assert torch.autograd.gradcheck(call, (x, weight))
    assert torch.autograd.gradgradcheck(call, (x, weight))


class Operators(TorchDispatchMode):
    """What starts kernels, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = any(
            a.alias_info is not None and not a.alias_info.is_write for a in func._schema.returns
        )
        if not views and "empty" not in func.__name__:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("edges", [2, 5])
def test_nothing_is_copied(edges: int) -> None:
    """Products alone, one each way whatever the number of edges, and one sum of chunks."""
    drawn = draw((4, 16, 8, 8), edges, 1, torch.float32)
    with Operators() as operators:
        solve(drawn, edges, ours=True)
    assert operators.names == ["bmm.out", "bmm.out", "bmm.default", "sum.IntList_out"]


def test_results_lie_where_they_are_written() -> None:
    """A product that PyTorch could not write in place would be copied there."""
    drawn = draw((4, 16, 8, 8), 3, 1, torch.float32)
    with torch.profiler.profile() as profile:
        solve(drawn, 3, ours=True)
    assert not [e.name for e in profile.events() if e.name == "aten::copy_"]


def test_chunks_divide_the_pixels() -> None:
    for images, side in ((1, 1), (3, 7), (2, 6), (64, 32)):
        drawn = draw((images, 2, side, side), 2, 1, torch.float64)
        for got, want in zip(solve(drawn, 2, ours=True), solve(drawn, 2, ours=False), strict=True):
            torch.testing.assert_close(got, want)
    assert CHUNKS & (CHUNKS - 1) == 0


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("edges", [2, 5])
def test_on_a_gpu(cuda: torch.device, dtype: torch.dtype, edges: int) -> None:
    drawn = draw((16, 16, 17, 9), edges, 1, dtype)
    wanted = solve([t.double() for t in drawn], edges, ours=False)
    on_device = [t.to(cuda) for t in drawn]
    with torch.profiler.profile() as profile:
        found = solve(on_device, edges, ours=True)
    tolerance = max(TOLERANCE[dtype], 2e-3 if dtype == torch.float32 else 0.0)  # TF32
    for got, want in zip(found, wanted, strict=True):
        assert (got.cpu().double() - want).norm() <= tolerance * want.norm()
    kernels = [e.name for e in profile.events() if str(e.device_type).endswith("CUDA")]
    assert not [name for name in kernels if "Slice" in name or "Transform" in name]
