"""The fused mixture against batch norm, multiplication and addition, one map at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snsoftmax import mixture, reference

# Of the float64 reference's largest value: a few roundings of the result, and of the sums.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 8e-3}


def opmath(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class Case:
    """Inputs of one call; the normalised maps are slices of one tensor where `sliced`."""

    dtype: torch.dtype = torch.float64
    normalized: int = 2
    plain: int = 2
    shape: tuple[int, int, int, int] = (3, 4, 5, 6)
    sliced: bool = True
    offset: float = 1.0
    seed: int = 0
    ys: list[Tensor] = field(init=False)
    xs: list[Tensor] = field(init=False)
    weights: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        n, c, h, w = self.shape

        def draw(channels: int) -> Tensor:
            t = torch.randn(n, channels, h, w, generator=generator, dtype=torch.float64)
            return (3 * t + self.offset).to(self.dtype).to(memory_format=torch.channels_last)

        if self.sliced and self.normalized:
            self.ys = list(torch.split(draw(c * self.normalized), c, 1))
        else:
            self.ys = [draw(c) for _ in range(self.normalized)]
        self.xs = [draw(c) for _ in range(self.plain)]
        self.weights = torch.rand(
            self.normalized + self.plain, generator=generator, dtype=torch.float64
        ).to(opmath(self.dtype))

    @property
    def inputs(self) -> list[Tensor]:
        return [*self.ys, *self.xs, self.weights]

    def call(
        self, function: Callable[..., Tensor], inputs: Sequence[Tensor], **kwargs: Any
    ) -> Tensor:
        k = self.normalized
        return function(list(inputs[:k]), list(inputs[k:-1]), inputs[-1], **kwargs)

    def running(self, dtype: torch.dtype) -> dict[str, list[Tensor]]:
        channels = self.shape[1]
        generator = torch.Generator().manual_seed(self.seed + 1)
        draws = [
            torch.rand(2, channels, generator=generator, dtype=torch.float64) + 0.5
            for _ in range(self.normalized)
        ]
        return {
            "running_mean": [d[0].to(dtype) for d in draws],
            "running_var": [d[1].to(dtype) for d in draws],
        }


def leaves(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Detached, in place as they are laid out, or converted to `dtype`; requiring gradients."""
    return [(t if dtype is None else t.to(dtype)).detach().requires_grad_() for t in tensors]


def error(actual: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().clamp_min(1e-30)
    return float(((actual.to(expected.dtype) - expected).abs().max() / scale).detach())


def compare(case: Case, **kwargs: Any) -> None:
    """Output, every gradient and the running statistics."""
    tolerance = TOLERANCE[case.dtype]
    tracked = kwargs.pop("tracked", False)
    ours = case.running(opmath(case.dtype)) if tracked else {}
    theirs = case.running(torch.float64) if tracked else {}
    inputs, exact = leaves(case.inputs), leaves(case.inputs, torch.float64)
    out = case.call(mixture, inputs, **ours, **kwargs)
    wanted = case.call(reference.mixture, exact, **theirs, **kwargs)
    assert out.dtype == case.dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert error(out, wanted) < tolerance
    g = torch.randn(case.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    g = g.to(case.dtype)
    actual = torch.autograd.grad(out, inputs, g)
    expected = torch.autograd.grad(wanted, exact, g.double())
    # A gradient of weights is one sum over all values: it may cancel far below its terms.
    largest = max(float(e.abs().max()) for e in expected[-1:])
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == inputs[i].dtype
        worst = float((a.double() - e).abs().max())
        assert worst <= tolerance * max(float(e.abs().max()), largest if e.dim() == 1 else 0.0), i
    for name in ours:
        for a, e in zip(ours[name], theirs[name], strict=True):
            assert error(a, e) < max(TOLERANCE[opmath(case.dtype)], 1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 8, 16, 20, 33, 64])
def test_training_matches_batch_norm(dtype: torch.dtype, channels: int) -> None:
    compare(Case(dtype, 3, 2, (3, channels, 5, 7)), tracked=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("normalized", "plain"), [(0, 1), (1, 0), (0, 3), (6, 6), (40, 24)])
def test_numbers_of_maps(dtype: torch.dtype, normalized: int, plain: int) -> None:
    compare(Case(dtype, normalized, plain, (2, 8, 4, 4)), tracked=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_several_blocks_and_threads(dtype: torch.dtype) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        compare(Case(dtype, 3, 3, (9, 16, 17, 19)), tracked=True)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_evaluation_uses_the_running_statistics(dtype: torch.dtype) -> None:
    compare(Case(dtype), tracked=True, training=False)


def test_evaluation_leaves_the_running_statistics_alone() -> None:
    case = Case()
    running, before = case.running(torch.float64), case.running(torch.float64)
    case.call(mixture, case.inputs, training=False, **running)
    for name in running:
        assert all(torch.equal(a, b) for a, b in zip(running[name], before[name], strict=True))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    normalized=st.integers(0, 5),
    plain=st.integers(0, 5),
    shape=st.tuples(*[st.integers(1, n) for n in (5, 40, 9, 9)]),
    sliced=st.booleans(),
    momentum=st.floats(0, 1),
)
def test_any_shape(
    dtype: torch.dtype,
    normalized: int,
    plain: int,
    shape: tuple[int, int, int, int],
    sliced: bool,
    momentum: float,
) -> None:
    if normalized + plain == 0:
        plain = 1
    n, c, h, w = shape
    if normalized and n * h * w < 8:  # a variance of few values can be anywhere near eps
        shape = (n + 7, c, h, w)
    compare(
        Case(dtype, normalized, plain, shape, sliced), tracked=normalized > 0, momentum=momentum
    )


@pytest.mark.parametrize("offset", [1e3, -1e5])
def test_statistics_do_not_cancel_far_from_zero(offset: float) -> None:
    case = Case(torch.float32, 2, 0, (8, 16, 16, 16), offset=offset)
    inputs = leaves(case.inputs)
    out = case.call(mixture, inputs)
    wanted = case.call(reference.mixture, leaves(case.inputs, torch.float64))
    # The mean itself is rounded to float32: that much, of a deviation of 3, is inherent.
    assert float((out.double() - wanted).abs().max()) < 2e-7 * abs(offset)


def test_an_outlier_first_does_not_spoil_the_variance() -> None:
    case = Case(torch.float32, 1, 0, (4, 16, 16, 16))
    case.ys[0][0, :, 0, 0] = 1e4
    out = case.call(mixture, case.inputs)
    wanted = case.call(reference.mixture, [t.double() for t in case.inputs])
    assert error(out, wanted) < 2e-6


def layouts(t: Tensor) -> dict[str, Tensor]:
    """The same values, laid out otherwise."""
    n, c, h, w = t.shape
    wide = torch.full((n, 3 * c, h, w), float("nan"), dtype=t.dtype).to(
        memory_format=torch.channels_last
    )
    wide[:, c : 2 * c] = t
    larger = torch.zeros(n, c, h + 2, w + 3, dtype=t.dtype).to(memory_format=torch.channels_last)
    larger[:, :, 1:-1, 1:-2] = t
    return {
        "nchw": t.contiguous(),
        "slice": wide[:, c : 2 * c],
        "window": larger[:, :, 1:-1, 1:-2],
        "transposed": t.transpose(2, 3).contiguous().transpose(2, 3),
        "every second": torch.stack([t, t], -1)[..., 1],
    }


@pytest.mark.parametrize("layout", ["nchw", "slice", "window", "transposed", "every second"])
def test_layouts(layout: str) -> None:
    case = Case()
    inputs = leaves(case.inputs)
    out = case.call(mixture, inputs)
    g = torch.randn_like(out)
    expected = torch.autograd.grad(out, inputs, g)
    other = leaves([layouts(t)[layout] for t in case.inputs[:-1]] + [case.weights])
    out_other = case.call(mixture, other)
    assert torch.equal(out_other, out)
    for a, e in zip(
        torch.autograd.grad(out_other, other, layouts(g)[layout]), expected, strict=True
    ):
        assert torch.equal(a, e)


def test_maps_of_one_pixel_or_one_sample() -> None:
    for shape in [(9, 8, 1, 1), (1, 8, 3, 3), (1, 8, 1, 9), (1, 1, 9, 1)]:
        compare(Case(torch.float64, 2, 1, shape))


def test_same_bits_every_time() -> None:
    case = Case(torch.float32, 3, 3, (16, 16, 16, 16))
    inputs = leaves(case.inputs)

    def run() -> list[Tensor]:
        out = case.call(mixture, inputs)
        return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out))]

    first = run()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


# ---- derivatives ----


def small(case: Case) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    return (lambda *inputs: case.call(mixture, inputs)), tuple(leaves(case.inputs))


def test_gradients_of_every_kind_by_finite_differences() -> None:
    f, inputs = small(Case(torch.float64, 2, 2, (2, 3, 2, 2), sliced=False))
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_gradients_in_evaluation_by_finite_differences() -> None:
    case = Case(torch.float64, 2, 1, (2, 3, 2, 2))
    running = case.running(torch.float64)

    def f(*inputs: Tensor) -> Tensor:
        return case.call(mixture, inputs, training=False, **running)

    inputs = tuple(leaves(case.inputs))
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_composite_and_fused_gradients_agree(dtype: torch.dtype) -> None:
    case = Case(dtype, 2, 2, (4, 8, 6, 6))
    inputs = leaves(case.inputs)
    out = case.call(mixture, inputs)
    g = torch.randn_like(out)
    fused = torch.autograd.grad(out, inputs, g, retain_graph=True)
    composite = torch.autograd.grad(out, inputs, g, create_graph=True)
    for a, e in zip(fused, composite, strict=True):
        assert a.dtype == e.dtype
        assert error(a, e.detach().double()) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (3,), (4,), (0, 4), (2, 3)])
def test_only_the_gradients_asked_for(wanted: tuple[int, ...]) -> None:
    case = Case()
    full = leaves(case.inputs)
    g = torch.randn(case.shape, dtype=torch.float64)
    expected = torch.autograd.grad(case.call(mixture, full), full, g)
    inputs = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(case.inputs)]
    out = case.call(mixture, inputs)
    actual = torch.autograd.grad(out, [inputs[i] for i in wanted], g)
    for i, a in zip(wanted, actual, strict=True):
        assert torch.equal(a, expected[i])


def test_weights_without_gradient_do_not_keep_the_plain_maps() -> None:
    case = Case(torch.float32, 1, 1)
    y, x = leaves(case.inputs[:-1])
    saved: list[int] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t.data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        mixture([y], [x], case.weights)
    assert y.data_ptr() in saved
    assert x.data_ptr() not in saved


def test_changed_inputs_are_noticed() -> None:
    case = Case(torch.float32, 1, 1)
    y, x = leaves(case.inputs[:-1])
    y2 = y * 1
    out = mixture([y2], [x], case.weights)
    y2.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out.sum(), y)


def test_func_grad_and_jvp() -> None:
    case = Case(torch.float64, 2, 1, (2, 3, 2, 2))
    inputs = tuple(t.contiguous() for t in case.inputs)
    argnums = tuple(range(len(inputs)))

    def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: case.call(function, args).pow(3).sum()

    for a, e in zip(
        torch.func.grad(loss(mixture), argnums)(*inputs),
        torch.func.grad(loss(reference.mixture), argnums)(*inputs),
        strict=True,
    ):
        assert error(a, e) < 1e-12
    tangents = tuple(torch.randn_like(t) for t in inputs)
    ours = torch.func.jvp(loss(mixture), inputs, tangents)
    theirs = torch.func.jvp(loss(reference.mixture), inputs, tangents)
    assert error(ours[1], theirs[1]) < 1e-12


# ---- registration and compilation ----


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_opcheck_mixture(tracked: bool, training: bool) -> None:
    if not training and not tracked:
        pytest.skip("evaluation needs running statistics")
    case = Case(torch.float32, 2, 2, (2, 4, 3, 3), sliced=False)
    inputs = leaves(case.inputs)
    running = case.running(torch.float32) if tracked else {"running_mean": [], "running_var": []}
    args = (inputs[:2], inputs[2:4], inputs[4], *running.values(), training, 0.1, 1e-5)
    torch.library.opcheck(torch.ops.snsoftmax.mixture.default, args)


@pytest.mark.parametrize("rectified", [False, True])
def test_opcheck_mixture_forward(rectified: bool) -> None:
    case = Case(torch.float32, 2, 2, (2, 4, 3, 3), sliced=False)
    args = [
        case.ys,
        case.xs,
        case.weights,
        *case.running(torch.float32).values(),
        [],
        True,
        0.1,
        1e-5,
    ]
    if rectified:
        args.append(torch.empty_like(case.xs[0]))
    torch.library.opcheck(torch.ops.snsoftmax.mixture_forward.default, tuple(args))


def test_opcheck_mixture_backward() -> None:
    case = Case(torch.float32, 2, 2, (2, 4, 3, 3), sliced=False)
    out, mean, rstd = torch.ops.snsoftmax.mixture(
        case.ys, case.xs, case.weights, [], [], True, 0.1, 1e-5
    )
    grads = [torch.zeros_like(t) for t in case.ys + case.xs]
    inputs = (torch.ones_like(out), case.ys, case.xs, case.weights, mean, rstd)
    outputs = (grads[:2], [True, False], grads[2:], [False, True], True, True)
    torch.library.opcheck(torch.ops.snsoftmax.mixture_backward.default, inputs + outputs)
    lines = torch.empty(2, 4, 4)
    torch.library.opcheck(
        torch.ops.snsoftmax.mixture_backward.default, (*inputs, *outputs, None, lines)
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole(backend: str) -> None:
    case = Case(torch.float32, 2, 2, (2, 8, 4, 4), sliced=False)
    ours, theirs = case.running(torch.float32), case.running(torch.float32)

    def step(inputs: list[Tensor], running: dict[str, list[Tensor]]) -> Tensor:
        return case.call(mixture, [2 * t for t in inputs], **running).relu()

    inputs = leaves(case.inputs)
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    out, expected = compiled(inputs, ours), step(inputs, theirs)
    torch.testing.assert_close(out, expected)
    g = torch.randn_like(out)
    for a, e in zip(
        torch.autograd.grad(out, inputs, g), torch.autograd.grad(expected, inputs, g), strict=True
    ):
        torch.testing.assert_close(a, e)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


# ---- the raw operators ----


def test_rectified_output_comes_from_the_same_pass() -> None:
    case = Case(torch.float32, 2, 2, (4, 16, 6, 6))
    wide = torch.zeros(4, 48, 6, 6).to(memory_format=torch.channels_last)
    out, _, _ = torch.ops.snsoftmax.mixture_forward(
        case.ys, case.xs, case.weights, [], [], [], True, 0.1, 1e-5, wide[:, 16:32]
    )
    assert torch.equal(wide[:, 16:32], out.relu())
    assert not wide[:, :16].any()
    assert not wide[:, 32:].any()


def test_backward_writes_slices_and_adds_where_told() -> None:
    case = Case(torch.float64, 2, 2, (4, 16, 6, 6))
    inputs = leaves(case.inputs)
    out, mean, rstd = torch.ops.snsoftmax.mixture(
        inputs[:2], inputs[2:4], inputs[4], [], [], True, 0.1, 1e-5
    )
    g = torch.randn_like(out)
    *maps, weights = torch.autograd.grad(out, inputs, g)
    buffer = torch.ones(4, 64, 6, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    slices = list(torch.split(buffer, 16, 1))
    with torch.no_grad():
        dw = torch.ops.snsoftmax.mixture_backward(
            *(g, case.ys, case.xs, case.weights, mean, rstd),
            *([slices[0], slices[1].new_empty(0)], [True, False]),
            *([slices[2], slices[3]], [False, True], True, True),
        )
    for written, expected in zip(
        slices, [maps[0] + 1, torch.ones_like(maps[1]), maps[2], maps[3] + 1], strict=True
    ):
        torch.testing.assert_close(written, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(dw, weights)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_first_passes_alone_give_what_the_whole_operators_use(dtype: torch.dtype) -> None:
    case = Case(dtype, 2, 2, (4, 16, 6, 6))
    ops = torch.ops.snsoftmax
    out, mean, rstd = ops.mixture(case.ys, case.xs, case.weights, [], [], True, 0.1, 1e-5)
    alone, deviation = ops.mixture_statistics(case.ys, [], [])
    assert torch.equal(alone, mean)
    torch.testing.assert_close((deviation**-2 + 1e-5).rsqrt(), rstd)
    moved, expected = (
        ([torch.zeros_like(mean[0]) for _ in case.ys], [torch.ones_like(mean[0]) for _ in case.ys])
        for _ in range(2)
    )
    ops.mixture(case.ys, [], case.weights[:2], *expected, True, 0.1, 1e-5)
    statistics = ops.mixture_statistics(case.ys, *moved, 0.1, 1e-5)
    for one, other in zip(statistics, (mean, rstd), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(moved, expected, strict=True):
        assert torch.equal(torch.stack(one), torch.stack(other))
    g = torch.randn_like(out)
    inputs = (g, case.ys, case.xs)
    sums, dw = ops.mixture_sums(*inputs, mean, rstd, True)
    assert sums.dtype == torch.float64
    # float32 within a block, float64 over the blocks
    torch.testing.assert_close(sums[0], g.double().sum((0, 2, 3)), rtol=1e-5, atol=1e-4)
    whole, given = ([torch.empty_like(t) for t in case.ys] for _ in range(2))
    rest: tuple[Any, ...] = (case.weights, mean, rstd)
    all_at_once = ops.mixture_backward(*inputs, *rest, whole, [], [], [], True, True)
    ops.mixture_backward(*inputs, *rest, given, [], [], [], False, True, sums)
    assert torch.equal(dw, all_at_once)
    for one, other in zip(given, whole, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("known", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_moments_that_are_known_are_not_taken(dtype: torch.dtype, known: tuple[int, ...]) -> None:
    """They count in place of the map's own, which a false one shows."""
    case = Case(dtype, 2, 1, (4, 16, 6, 6))
    ops = torch.ops.snsoftmax
    moments = [torch.empty(0)] * 2
    for k in known:
        mean, m2 = torch.full((2, 16), k + 2.0, dtype=torch.float64)
        moments[k] = torch.stack((mean, 144 * m2))
    moved, expected = (case.running(opmath(dtype)) for _ in range(2))
    shared = case.ys, case.xs, case.weights
    _, mean, rstd = ops.mixture_forward(*shared, *moved.values(), moments, True, 0.1, 1e-5)
    _, own, of_own = ops.mixture_forward(*shared, *expected.values(), [], True, 0.1, 1e-5)
    for k in range(2):
        if k in known:
            assert (mean[k] == k + 2).all()
            torch.testing.assert_close(rstd[k], torch.full_like(rstd[k], k + 2 + 1e-5) ** -0.5)
            was = case.running(opmath(dtype))
            of_mean, of_var = (0.9 * s[k] + 0.1 * (k + 2) for s in was.values())
            torch.testing.assert_close(moved["running_mean"][k], of_mean)
            var = of_var + 0.1 * (k + 2) / 143
            torch.testing.assert_close(moved["running_var"][k], var)
        else:
            torch.testing.assert_close(mean[k], own[k])
            torch.testing.assert_close(rstd[k], of_own[k])
            torch.testing.assert_close(moved["running_var"][k], expected["running_var"][k])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_lines_give_the_gradients_that_are_written(dtype: torch.dtype, training: bool) -> None:
    case = Case(dtype, 2, 1, (4, 16, 6, 6))
    ops = torch.ops.snsoftmax
    running = case.running(opmath(dtype)).values()
    shared = case.ys, case.xs, case.weights
    out, mean, rstd = ops.mixture_forward(*shared, *running, [], training, 0.1, 1e-5)
    g = torch.randn_like(out)
    written = [torch.empty_like(y) for y in case.ys]
    arguments = g, *shared, mean, rstd
    ops.mixture_backward(*arguments, written, [], [], [], False, training)
    lines = mean.new_empty(2, 4, 16)
    ops.mixture_backward(*arguments, [], [], [], [], False, training, None, lines)
    for y, line, grad in zip(case.ys, lines, written, strict=True):
        center, slope, tilt, shift = (part.view(-1, 1, 1) for part in line)
        found = slope * g + (tilt * (y - center) + shift)
        torch.testing.assert_close(found.to(dtype), grad)


def test_moments_and_lines_must_fit() -> None:
    case = Case(torch.float32, 2, 0, (2, 4, 3, 3), sliced=False)
    ops = torch.ops.snsoftmax
    moments = torch.ones(2, 4, dtype=torch.float64)
    none: list[Tensor] = []
    rest = case.ys, none, case.weights, none, none
    with pytest.raises(ValueError, match="moments must be empty or have one tensor for each of"):
        ops.mixture_forward(*rest, [moments], True, 0.1, 1e-5)
    with pytest.raises(ValueError, match=r"moments\[1\] must be contiguous, float64 and"):
        ops.mixture_forward(*rest, [moments, moments.float()], True, 0.1, 1e-5)
    out, mean, rstd = ops.mixture(*rest, True, 0.1, 1e-5)
    inputs = (out, *rest[:3], mean, rstd, none, none, none, none, False, True, None)
    with pytest.raises(ValueError, match=r"lines must be contiguous, Float and of shape \[2, 4, 4"):
        ops.mixture_backward(*inputs, torch.empty(2, 4, 3))


def test_opcheck_first_passes() -> None:
    case = Case(torch.float32, 2, 2, (2, 4, 3, 3), sliced=False)
    mean, rstd = torch.ops.snsoftmax.mixture_statistics(case.ys, [], [])
    torch.library.opcheck(torch.ops.snsoftmax.mixture_statistics.default, (case.ys, [], []))
    args = (torch.ones_like(case.ys[0]), case.ys, case.xs, mean, rstd, True)
    torch.library.opcheck(torch.ops.snsoftmax.mixture_sums.default, args)


def test_sums_must_fit() -> None:
    case = Case(torch.float32, 2, 0, (2, 4, 3, 3), sliced=False)
    mean, rstd = torch.ops.snsoftmax.mixture_statistics(case.ys, [], [])
    none: list[torch.Tensor] = []
    grad = torch.ones_like(case.ys[0])
    inputs = (grad, case.ys, none, case.weights, mean, rstd, none, none, none, none)
    with pytest.raises(ValueError, match="sums must be those that mixture_sums returned"):
        torch.ops.snsoftmax.mixture_backward(*inputs, False, True, torch.zeros(2, 4))
    sums = torch.zeros(3, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="comes from mixture_sums"):
        torch.ops.snsoftmax.mixture_backward(*inputs, True, True, sums)


# ---- wrong input: one sentence ----


def map_of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (([], [], torch.zeros(0)), ValueError, "at least one map"),
        (([map_of(2, 3, 4)], [], torch.zeros(1)), ValueError, r"normalized\[0\] must be \[N, C, H"),
        (
            ([map_of(2, 3, 4, 4)], [map_of(2, 4, 4, 4)], torch.zeros(2)),
            ValueError,
            r"plain\[0\] has shape \[2, 4, 4, 4\]",
        ),
        (
            ([map_of(2, 3, 4, 4)], [map_of(2, 3, 4, 4, dtype=torch.float64)], torch.zeros(2)),
            TypeError,
            r"plain\[0\] is Double",
        ),
        (([map_of(2, 3, 4, 4, dtype=torch.int32)], [], torch.zeros(1)), TypeError, "are Int"),
        (([map_of(2, 3, 4, 4)], [], torch.zeros(2)), ValueError, r"weights must have shape \[1\]"),
        (
            ([map_of(2, 3, 4, 4)], [], torch.zeros(1, dtype=torch.float64)),
            TypeError,
            "weights must be Float",
        ),
        (([map_of(1, 3, 1, 1)], [], torch.zeros(1)), ValueError, "more than one value a channel"),
        (([map_of(2, 3, 1, 1)] * 65, [], torch.zeros(65)), ValueError, "at most 64 maps"),
    ],
)
def test_refuses(arguments: Any, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        mixture(*arguments)


def test_refuses_wrong_running_statistics() -> None:
    maps, weights = [map_of(2, 3, 4, 4)], torch.zeros(1)
    with pytest.raises(ValueError, match="training=False needs running_mean"):
        mixture(maps, [], weights, training=False)
    with pytest.raises(ValueError, match="one tensor for each of the 1 normalized"):
        mixture(maps, [], weights, running_mean=[weights] * 2, running_var=[weights] * 2)
    with pytest.raises(ValueError, match=r"running_mean must have shape \[3\]"):
        mixture(maps, [], weights, running_mean=[weights], running_var=[weights])


def test_running_statistics_of_some_maps_alone() -> None:
    """Where others are not tracked; in training, since evaluation reads all."""
    case = Case(torch.float32)
    running = case.running(torch.float32)
    whole = {name: [t.clone() for t in statistics] for name, statistics in running.items()}
    expected = case.call(mixture, case.inputs, **whole)
    untracked = {n: [torch.empty(0), *statistics[1:]] for n, statistics in running.items()}
    before = {n: statistics[0].clone() for n, statistics in running.items()}
    assert torch.equal(case.call(mixture, case.inputs, **untracked), expected)
    for name, statistics in running.items():
        assert torch.equal(statistics[0], before[name])
        assert torch.equal(statistics[1], whole[name][1])
    with pytest.raises(ValueError, match=r"running_mean must have shape \[\d+\]"):
        case.call(mixture, case.inputs, training=False, **untracked)


def test_running_statistics_count_as_changed() -> None:
    case = Case(torch.float32)
    running = case.running(torch.float32)
    versions = [t._version for ts in running.values() for t in ts]
    case.call(mixture, case.inputs, **running)
    assert [t._version for ts in running.values() for t in ts] == [v + 1 for v in versions]


def test_what_a_weight_of_zero_multiplies_is_not_read_on_a_gpu(cuda: torch.device) -> None:
    """But for its moments, where they are not known."""
    ops = torch.ops.snsoftmax
    y, x, g = (torch.randn(4, 16, 6, 6, device=cuda) for _ in range(3))
    nothing = torch.full_like(y, float("nan"))
    weights = torch.tensor([1.5, 0.0, 0.5], device=cuda)
    mean, m2 = torch.zeros(16, device=cuda), torch.full((16,), -1.0, device=cuda)
    moments = [weights.new_empty(0), torch.stack((mean, m2)).double()]
    running = [[torch.full((16,), s, device=cuda) for _ in range(2)] for s in (1.0, 2.0)]
    maps = [y, nothing], [x], weights
    out, mean, rstd = ops.mixture_forward(*maps, *running, moments, True, 0.1, 1e-5)
    alone = ops.mixture_forward([y], [x], weights[::2], [], [], [], True, 0.1, 1e-5)
    torch.testing.assert_close(out, alone[0])
    assert (rstd[1] == 0).all()
    assert [(s[0] == s[1]).any().item() for s in running] == [False, False]
    assert [(s[1] == was).all().item() for s, was in zip(running, (1, 2), strict=True)] == [
        True
    ] * 2
    grads = [torch.empty_like(y) for _ in range(3)]
    ops.mixture_backward(g, *maps, mean, rstd, grads[:2], [], grads[2:], [], False, True)
    of_y = torch.empty_like(y)
    ops.mixture_backward(
        g, [y], [x], weights[::2], *alone[1:], [of_y], [], [torch.empty_like(x)], [], False, True
    )
    torch.testing.assert_close(grads[0], of_y)
    assert not grads[1].any()


def test_cuda_is_as_the_cpu_in_float64(cuda: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(8, 16, 9, 9, generator=generator) for _ in range(5)]
    weights = torch.rand(5, generator=generator)
    grad = torch.randn(8, 16, 9, 9, generator=generator)

    def solve(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(device, dtype).requires_grad_() for x in (*maps, weights)]
        mix = reference.mixture if dtype == torch.float64 else mixture
        out = mix(leaves[:3], leaves[3:5], leaves[5])
        grads = torch.autograd.grad(out, leaves, grad.to(device, dtype))
        return [x.detach().double().cpu() for x in (out, *grads)]

    exact = solve(torch.device("cpu"), torch.float64)
    for got, want in zip(solve(cuda, torch.float32), exact, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
