"""The convolutions that leave a node, against PyTorch's own in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snsoftmax import reference
from snsoftmax.node_convolve import fits, node_convolve

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
    st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any),
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
        assert ours.dtype == (dtype if ours.dim() == 4 else torch.float64)
        close(ours, theirs, dtype)


def test_derivatives() -> None:
    drawn = [t.requires_grad_() for t in draw((2, 3, 4, 5), (2, 1))]

    def maps(*inputs: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = ops.node_convolve(*inputs, None)
        return found[:2]

    assert torch.autograd.gradcheck(maps, drawn)
    assert torch.autograd.gradgradcheck(maps, drawn)
    assert not ops.node_convolve(*drawn, None)[2].requires_grad


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False)])
def test_only_wanted_gradients(needs: tuple[bool, ...]) -> None:
    drawn = [t.requires_grad_(n) for t, n in zip(draw((2, 3, 4, 5), (2, 1)), needs, strict=True)]
    wanted = [t for t in drawn if t.requires_grad]
    found: list[Tensor] = []
    for maps in (ops.node_convolve(*drawn, None), reference.node_convolve(*drawn)):
        found += torch.autograd.grad(maps[0].sum() + maps[1].sum(), wanted)
    close(found[0], found[1], torch.float64)


@pytest.mark.parametrize("operator", [True, False])
def test_edges_that_are_not_live(operator: bool) -> None:
    x, three_weights, one_weights = (t.requires_grad_() for t in draw((2, 3, 4, 5), (2, 2)))
    drawn = x, three_weights, one_weights
    live = torch.tensor([False, True, True, False])
    call = ops.node_convolve if operator else node_convolve
    three, one, moments = call(x, three_weights, one_weights, live)
    whole = reference.node_convolve(*drawn)
    close(moments[live], whole[2][live].detach(), torch.float64)
    assert torch.equal(moments[~live, 0], torch.zeros(2, 3).double())
    assert torch.equal(moments[~live, 1], -torch.ones(2, 3).double())
    close(three[:, 3:], whole[0][:, 3:].detach(), torch.float64)
    close(one[:, :3], whole[1][:, :3].detach(), torch.float64)
    wanted = torch.autograd.grad(whole[0][:, 3:].sum() + whole[1][:, :3].sum(), drawn)
    grads = [torch.full_like(y, float("nan")) for y in (three, one)]  # where nobody wrote
    grads[0][:, 3:] = 1
    grads[1][:, :3] = 1
    found = torch.autograd.grad((three, one), drawn, grads)
    for a, b in zip(found, wanted, strict=True):
        close(a, b, torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.integers(0, 63),
)
def test_gradients(
    shape: tuple[int, ...], edges: tuple[int, int], dtype: torch.dtype, bits: int
) -> None:
    inputs = [t.double().requires_grad_() for t in draw(shape, edges, dtype)]
    live = torch.tensor([bits >> e & 1 for e in range(sum(edges))], dtype=torch.bool)
    maps = reference.node_convolve(*inputs)[:2]
    grads = gradients_of(maps, live, dtype)
    wanted = torch.autograd.grad(
        maps, inputs, [g.double().nan_to_num(0) for g in grads], materialize_grads=True
    )
    x, three, one = (t.detach().to(dtype) for t in inputs)
    found = [
        ops.node_convolve_backward_map(*grads, x, three, one, live),
        *ops.node_convolve_backward_weights(*grads, x, live),
    ]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        close(ours, theirs, dtype)


def gradients_of(maps: Sequence[Tensor], live: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Random ones of maps; NaN for edges that are not ``live``."""
    channels = sum(y.shape[1] for y in maps) // len(live)
    dead = (~live).repeat_interleave(channels).split([y.shape[1] for y in maps])
    return [
        torch.randn_like(y)
        .masked_fill(part[:, None, None], float("nan"))
        .to(dtype)
        .to(memory_format=torch.channels_last)
        for y, part in zip(maps, dead, strict=True)
    ]


class Called(TorchDispatchMode):
    """Which of our operators were."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "snsoftmax":
            self.names.append(func.__name__.removesuffix(".default"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False), (False, True, True)])
def test_gradients_are_by_our_operators_where_the_maps_are(
    monkeypatch: pytest.MonkeyPatch, needs: tuple[bool, ...]
) -> None:
    monkeypatch.setattr("snsoftmax.node_convolve.fits", lambda *_: True)
    drawn = [t.requires_grad_(n) for t, n in zip(draw((2, 3, 4, 5), (2, 1)), needs, strict=True)]
    wanted = [t for t in drawn if t.requires_grad]
    with Called() as called:
        maps = node_convolve(*drawn)
        first = torch.autograd.grad(maps.three.sum() + maps.one.sum(), wanted, retain_graph=True)
    expected = ["node_convolve"]
    expected += ["node_convolve_backward_weights"] * needs[1]
    expected += ["node_convolve_backward_map"] * needs[0]
    assert [name for name in called.names if name != "node_convolve_check"] == expected
    with Called() as called:  # differentiable again
        again = torch.autograd.grad(maps.three.sum() + maps.one.sum(), wanted, create_graph=True)
    assert called.names == []
    for ours, theirs in zip(first, again, strict=True):
        close(ours, theirs, torch.float64)


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
        ("meta", torch.bfloat16, 16, 3, True, True),
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
    with pytest.raises(ValueError, match=r"live must be \[2\] on cpu, but has shape \[3\] on cpu"):
        node_convolve(x, three, one, torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="live must be bool, but is Float"):
        node_convolve(x, three, one, torch.ones(2))


def test_wrong_gradients_are_refused() -> None:
    x, three, one = (t.to("meta") for t in draw((1, 2, 4, 4), (2, 1)))
    of_three, of_one = (torch.empty(1, len(w), 4, 4, device="meta").double() for w in (three, one))
    weights, of_map = ops.node_convolve_backward_weights, ops.node_convolve_backward_map
    with pytest.raises(ValueError, match=r"grad_three must be \[1, edges \* 2, 4, 4\], but has"):
        weights(of_three[:, :3], of_one, x, None)
    with pytest.raises(TypeError, match="grad_one must be Double as x is, but is Float"):
        weights(of_three, of_one.float(), x, None)
    with pytest.raises(ValueError, match=r"live must be \[3\] on meta"):
        weights(of_three, of_one, x, torch.ones(2, dtype=torch.bool, device="meta"))
    with pytest.raises(ValueError, match="have 2 and 2 channels, but three and one give 4 and 2"):
        of_map(of_three[:, :2], of_one, x, three, one, None)


@pytest.mark.parametrize("live", [None, torch.tensor([True, False, True])])
def test_opcheck(live: Tensor | None) -> None:
    drawn = draw((2, 3, 4, 4), (1, 2))
    grads = [torch.randn(2, len(w), 4, 4).double() for w in drawn[1:]]
    torch.library.opcheck(ops.node_convolve_backward_weights.default, (*grads, drawn[0], live))
    torch.library.opcheck(ops.node_convolve_backward_map.default, (*grads, *drawn, live))
    torch.library.opcheck(ops.node_convolve.default, (*drawn, live))
    wanting = [t.requires_grad_() for t in drawn]
    torch.library.opcheck(ops.node_convolve.default, (*wanting, live))


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
    parts = [alive[: 3 * channels], alive[3 * channels :], live]
    for ours, same, theirs, part in zip(found, again, wanted, parts, strict=True):
        at = (slice(None), part) if ours.dim() == 4 else part
        assert (ours[at].double() - theirs[at]).norm() <= tolerance * theirs[at].norm()
        assert torch.equal(ours[at], same[at])
    assert not found[2][~live, 0].any()
    assert (found[2][~live, 1] == -1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("shape", [(5, 17, 9), (9, 4, 4), (64, 8, 8)])
@pytest.mark.parametrize("skip", [False, True])
def test_gradients_on_a_gpu(
    cuda: torch.device, dtype: torch.dtype, channels: int, shape: tuple[int, ...], skip: bool
) -> None:
    drawn = [t.to(cuda) for t in draw((shape[0], channels, *shape[1:]), (3, 2), dtype)]
    inputs = [t.double().requires_grad_() for t in drawn]
    live = torch.tensor([True, not skip, True, not skip, True], device=cuda)
    maps = reference.node_convolve(*inputs)[:2]
    grads = gradients_of(maps, live, dtype)
    wanted = torch.autograd.grad(maps, inputs, [g.double().nan_to_num(0) for g in grads])
    tolerance = max(TOLERANCE[dtype], 2e-3 if dtype == torch.float32 else 0.0)  # TF32

    def gradients() -> list[Tensor]:
        return [
            ops.node_convolve_backward_map(*grads, *drawn, live),
            *ops.node_convolve_backward_weights(*grads, drawn[0], live),
        ]

    for ours, same, theirs in zip(gradients(), gradients(), wanted, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()
        assert torch.equal(ours, same)


def test_steps_on_a_gpu_are_ours(cuda: torch.device) -> None:
    """From the public function; and a recorded graph reads what is live anew."""
    drawn = [t.to(cuda).requires_grad_() for t in draw((4, 16, 8, 8), (3, 3), torch.bfloat16)]
    x, three, one = drawn
    live = torch.ones(6, dtype=torch.bool, device=cuda)

    def step() -> tuple[Tensor, ...]:
        maps = node_convolve(x, three, one, live)
        return torch.autograd.grad((maps.three, maps.one), drawn, (maps.three, maps.one))

    with Called() as called:
        step()
    assert called.names == [
        *("node_convolve", "node_convolve_backward_weights", "node_convolve_backward_map")
    ]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        recorded = step()
    live[1] = live[4] = False
    graph.replay()
    for ours, theirs in zip(recorded, step(), strict=True):
        assert torch.equal(ours, theirs)
    assert not recorded[1][16:32].any()
    assert not recorded[2][16:32].any()
