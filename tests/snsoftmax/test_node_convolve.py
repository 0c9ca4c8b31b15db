"""The convolutions that leave a node, against PyTorch's own in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snsoftmax import reference
from snsoftmax.node_convolve import _NodeConvolve, fits, node_convolve

ops = torch.ops.snsoftmax
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def draw(
    shape: tuple[int, ...], edges: tuple[int, int], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """A map and the kernels of its outgoing edges."""
    torch.manual_seed(0)
    c = shape[1]
    drawn = [
        torch.randn(shape),
        torch.randn(edges[0] * c, c, 3, 3) / (9 * c) ** 0.5,
        torch.randn(edges[1] * c, c, 1, 1) / c**0.5,
    ]
    return [t.to(dtype).to(memory_format=torch.channels_last) for t in drawn]


def close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    error = (ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-6)
    assert error <= TOLERANCE[dtype]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_values(
    shape: tuple[int, ...], edges: tuple[int, int], dtype: torch.dtype, operator: bool
) -> None:
    drawn = draw(shape, edges, dtype)
    found = ops.node_convolve(*drawn, None) if operator else node_convolve(*drawn)
    wanted = reference.node_convolve(*(t.double() for t in drawn))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == (dtype if ours.dim() == 4 or dtype == torch.float64 else torch.float32)
        close(ours, theirs, dtype)


def test_derivatives() -> None:
    drawn = [t.requires_grad_() for t in draw((2, 3, 4, 5), (2, 1))]

    def maps(*inputs: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = _NodeConvolve.apply(*inputs, None)
        return found[:2]

    assert torch.autograd.gradcheck(maps, drawn)
    assert torch.autograd.gradgradcheck(maps, drawn)
    *_, mean, var = _NodeConvolve.apply(*drawn, None)
    assert not mean.requires_grad
    assert not var.requires_grad


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False)])
def test_only_wanted_gradients(needs: tuple[bool, ...]) -> None:
    drawn = [t.requires_grad_(n) for t, n in zip(draw((2, 3, 4, 5), (2, 1)), needs, strict=True)]
    wanted = [t for t in drawn if t.requires_grad]
    found: list[Tensor] = []
    for maps in (_NodeConvolve.apply(*drawn, None), reference.node_convolve(*drawn)):
        found += torch.autograd.grad(maps[0].sum() + maps[1].sum(), wanted)
    close(found[0], found[1], torch.float64)


@pytest.mark.parametrize("operator", [True, False])
def test_edges_that_are_not_live(operator: bool) -> None:
    x, three_weights, one_weights = (t.requires_grad_() for t in draw((2, 3, 4, 5), (2, 2)))
    drawn = x, three_weights, one_weights
    live = torch.tensor([False, True, True, False])
    call = _NodeConvolve.apply if operator else node_convolve
    three, one, mean, var = call(x, three_weights, one_weights, live)
    whole = reference.node_convolve(*drawn)
    alive = live.repeat_interleave(3)
    for ours, theirs in zip((mean, var), whole[2:], strict=True):
        close(ours[alive], theirs[alive].detach(), torch.float64)
        assert not ours[~alive].any()
    close(three[:, 3:], whole[0][:, 3:].detach(), torch.float64)
    close(one[:, :3], whole[1][:, :3].detach(), torch.float64)
    wanted = torch.autograd.grad(whole[0][:, 3:].sum() + whole[1][:, :3].sum(), drawn)
    grads = [torch.full_like(y, float("nan")) for y in (three, one)]  # where nobody wrote
    grads[0][:, 3:] = 1
    grads[1][:, :3] = 1
    found = torch.autograd.grad((three, one), drawn, grads)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, torch.float64)


@pytest.mark.parametrize(
    ("device", "dtype", "channels", "edges", "tf32", "expected"),
    [
        ("cuda", torch.bfloat16, 16, 3, False, True),
        ("cuda", torch.float32, 64, 32, True, True),
        ("cuda", torch.float32, 64, 1, False, False),
        ("cuda", torch.float16, 16, 1, True, False),
        ("cuda", torch.float64, 16, 1, True, False),
        ("cuda", torch.bfloat16, 24, 1, True, False),
        ("cuda", torch.bfloat16, 16, 33, True, False),
        ("cpu", torch.bfloat16, 16, 3, True, False),
    ],
)
def test_choice(
    device: str, dtype: torch.dtype, channels: int, edges: int, tf32: bool, expected: bool
) -> None:
    assert fits(device, dtype, channels, edges, tf32) == expected


def test_wrong_arguments_are_refused() -> None:
    x, three, one = draw((1, 2, 4, 4), (1, 1))
    with pytest.raises(ValueError, match=r"three must be \[edges \* 2, 2, 3, 3\], but has shape"):
        node_convolve(x, one, one)
    with pytest.raises(ValueError, match=r"one must be \[edges \* 2, 2, 1, 1\], but has shape"):
        node_convolve(x, three, three)
    with pytest.raises(TypeError, match="one must be Double as x is, but is Float"):
        node_convolve(x, three, one.float())
    with pytest.raises(ValueError, match=r"live must be \[2\] on meta, but has shape \[3\]"):
        node_convolve(x, three, one, torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="live must be bool, but is Float"):
        node_convolve(x, three, one, torch.ones(2))


def test_opcheck() -> None:
    drawn = draw((2, 3, 4, 4), (1, 2))
    torch.library.opcheck(ops.node_convolve.default, (*drawn, None))
    torch.library.opcheck(ops.node_convolve.default, (*drawn, torch.tensor([True, False, True])))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [16, 24, 32, 64])
@pytest.mark.parametrize("skip", [False, True])
def test_operator_on_a_gpu(
    cuda: torch.device, dtype: torch.dtype, channels: int, skip: bool
) -> None:
    drawn = [t.to(cuda) for t in draw((5, channels, 17, 9), (3, 2), dtype)]
    live = torch.tensor([True, not skip, True, not skip, True], device=cuda)
    found = ops.node_convolve(*drawn, live)
    again = ops.node_convolve(*drawn, live)
    wanted = reference.node_convolve(*(t.double() for t in drawn))
    alive = live.repeat_interleave(channels)
    tolerance = max(TOLERANCE[dtype], 2e-3 if dtype == torch.float32 else 0.0)  # TF32
    parts = [alive[: 3 * channels], alive[3 * channels :], alive, alive]
    for ours, same, theirs, part in zip(found, again, wanted, parts, strict=True):
        at = (slice(None), part) if ours.dim() == 4 else part
        assert (ours[at].double() - theirs[at]).norm() <= tolerance * theirs[at].norm()
        assert torch.equal(ours[at], same[at])
    assert not found[2][~alive].any()
