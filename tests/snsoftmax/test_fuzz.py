"""sn-softmax on whatever a caller may bring: a right result or the documented error."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from snsoftmax import sn_softmax

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SPECIAL = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-45, -1e-40, 3e38, -3e38, 1e300, 65504.0]
TEMPERATURES = st.floats(1e-6, 1e6)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Logits of any layout and content, and a dim of them."""
    shape: list[int] = draw(st.lists(st.integers(0, 9), min_size=0, max_size=4))
    dim = draw(st.integers(-len(shape), len(shape) - 1)) if shape else 0
    if draw(st.booleans()) and shape:
        shape[dim] = draw(st.integers(0, 200))
    step = [draw(st.integers(1, 2)) for _ in shape]
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    base = size * torch.randn(
        [n * s for n, s in zip(shape, step, strict=True)], generator=generator, dtype=torch.float64
    )
    if draw(st.booleans()):
        value = draw(st.sampled_from(SPECIAL))
        share = draw(st.sampled_from([0.05, 0.5, 1.0]))
        base[torch.rand(base.shape, generator=generator) < share] = value
    a = base.to(dtype)[tuple(slice(None, None, s) for s in step)]
    order = draw(st.permutations(range(len(shape))))
    inverse = [order.index(i) for i in range(len(shape))]
    if draw(st.booleans()):
        a = a.permute(order).contiguous().permute(inverse)
    return a, dim


@given(tensors(), TEMPERATURES, st.one_of(st.none(), TEMPERATURES))
def test_any_tensor(case: tuple[Tensor, int], t: float, smooth: float | None) -> None:
    a, dim = case
    a = a.detach().requires_grad_()
    p, h = sn_softmax(a, t, scale=None, smooth_temperature=smooth, dim=dim, return_entropy=True)
    g = torch.ones_like(p).cumsum(0) / (1 + p.shape[0]) if p.dim() else torch.ones_like(p)
    (d,) = torch.autograd.grad((p, h), a, (g, torch.full_like(h, 0.5)))
    assert p.shape == d.shape == a.shape
    if a.numel() == 0:
        assert not h.any()
        return
    op = torch.float64 if a.dtype == torch.float64 else torch.float32
    x = a.detach().double()
    top = x.amax(dim, keepdim=True)
    bad = (x.isnan() | (x == math.inf)).any(dim, keepdim=True) | (top == -math.inf)
    # exp((a - max)/t) in float64, with the difference rounded as the operator documents it.
    z = (a.detach().to(op) - top.to(op)).double() / t
    e = torch.exp(z)
    expected = e / e.sum(dim, keepdim=True)
    is_bad = bad.expand_as(p)
    assert p[is_bad].isnan().all()
    assert d[is_bad].isnan().all()
    assert p[~is_bad].isfinite().all()
    assert h[~bad.squeeze(dim)].isfinite().all()
    assert (h[~bad.squeeze(dim)] >= 0).all()
    eps = torch.finfo(a.dtype).eps
    torch.testing.assert_close(
        p[~is_bad].double(),
        expected[~is_bad],
        rtol=eps + 512 * torch.finfo(op).eps,  # z is at most a few hundred where p is not zero
        atol=max(torch.finfo(a.dtype).tiny, 1e-37),
    )
    finite = d[~is_bad]
    largest = torch.finfo(a.dtype).max
    if 4 * (1 / t + (1 / smooth if smooth else 0)) * 200 < largest:
        assert finite.isfinite().all()
        # The formula of sn_softmax.h in float64, from the same rounded differences.
        z = z.where(expected > 0, 0)
        u = g.double() - 0.5 * z
        exact = expected * (u - (expected * u).sum(dim, keepdim=True)) / t
        if smooth:
            q = torch.softmax((a.detach().to(op) - top.to(op)).double() / smooth, dim)
            exact += q * (g.double() - (q * g.double()).sum(dim, keepdim=True)) / smooth
        size = g.double().abs().amax() + 0.5 * z[~is_bad].abs().amax() if (~is_bad).any() else 0
        torch.testing.assert_close(
            finite.double(),
            exact[~is_bad],
            rtol=2 * eps + 1024 * torch.finfo(op).eps,
            atol=float(32 * torch.finfo(op).eps * size * (1 / t + (1 / smooth if smooth else 0)))
            + torch.finfo(a.dtype).tiny,
        )


@given(
    st.one_of(st.floats(), st.text(max_size=3), st.none(), st.integers(-3, 3)),
    st.one_of(st.none(), st.floats(), st.text(max_size=3)),
    st.one_of(st.none(), st.floats(), st.text(max_size=3)),
    st.one_of(st.integers(-5, 5), st.floats(), st.none()),
)
def test_any_arguments(t: object, scale: object, smooth: object, dim: object) -> None:
    a = torch.randn(2, 3)
    documented = isinstance(t, (int, float)) and 0 < t < math.inf
    documented &= isinstance(dim, int) and -2 <= dim <= 1
    for value, lowest in ((scale, 1.0), (smooth, 0.0)):
        documented &= value is None or (isinstance(value, float) and lowest < value < math.inf)
    documented &= scale is None or smooth is None
    if not documented:
        with pytest.raises((TypeError, ValueError, IndexError)) as caught:
            sn_softmax(a, t, scale=scale, smooth_temperature=smooth, dim=dim)  # type: ignore[call-overload]
        assert "\n" not in str(caught.value)
        return
    p = sn_softmax(a, t, scale=scale, smooth_temperature=smooth, dim=dim)  # type: ignore[call-overload]
    assert isinstance(t, (int, float))
    assert isinstance(dim, int)
    z = (a.double() - a.amax(dim, keepdim=True)) / t
    torch.testing.assert_close(p.double(), torch.softmax(z, dim), rtol=1e-4, atol=1e-6)
