"""The ReLU and average of a node's map against PyTorch's own."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snsoftmax import reference
from snsoftmax.rectify_average import HandedGradients, rectifies, rectify, rectify_average

ops = torch.ops.snsoftmax
backward = ops.rectify_average_backward
# Weights of every type that a kernel reads by itself, and one that it does not.
NUMBERS = [
    *(
        torch.tensor(0.25 * i - 0.5, dtype=dtype)
        for i, dtype in enumerate((torch.float32, torch.float64, torch.bfloat16, torch.float16))
    ),
    torch.tensor(3),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def random_map(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 37), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(list(TOLERANCE)), st.integers(0, 3))
def test_both_directions(shape: tuple[int, ...], dtype: torch.dtype, readers: int) -> None:
    torch.manual_seed(0)
    x = random_map(shape, dtype)
    rectified, averaged = ops.rectify_average(x, True, True)
    assert torch.equal(rectified, reference.rectify_average(x)[0])
    wide = x.double().requires_grad_()
    close = partial(torch.testing.assert_close, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    close(averaged.double(), reference.rectify_average(wide)[1])

    identity, averages = ([random_map(shape, dtype) for _ in range(n)] for n in (2, 3))
    through_relu = [random_map(shape, dtype) for _ in range(readers)]
    v, u = torch.rand(2).unbind(), torch.rand(3).unbind()
    grad = ops.rectify_average_backward(rectified, through_relu, identity, v, averages, u)
    value = torch.zeros((), dtype=torch.float64)
    for g, w in zip(identity, v, strict=True):
        value = value + w * (wide * g.double()).sum()
    for g, w in zip(averages, u, strict=True):
        value = value + w * (reference.rectify_average(wide)[1] * g.double()).sum()
    for g in through_relu:
        value = value + (wide.relu() * g.double()).sum()
    (expected,) = torch.autograd.grad(value, wide)
    close(grad.double(), expected)


def test_derivatives_of_every_output() -> None:
    x = random_map((2, 3, 4, 5)).requires_grad_()

    def outputs(x: Tensor) -> tuple[Tensor, ...]:
        map, averaged, rectified = rectify_average(x, 2, True)
        return map, averaged, *rectified

    assert torch.autograd.gradcheck(outputs, (x,))
    assert torch.autograd.gradgradcheck(outputs, (x,))


def test_what_readers_hand_over_counts_with_its_weight() -> None:
    x = random_map((2, 3, 4, 5)).requires_grad_()
    of_map, of_averaged = HandedGradients(), HandedGradients()
    map, averaged, (rectified,) = rectify_average(x, 1, True, of_map, of_averaged)
    grads = [random_map((2, 3, 4, 5)) for _ in range(4)]
    weights = [torch.tensor(w, dtype=torch.float64) for w in (0.3, -2.0)]

    class Reader(torch.autograd.Function):
        """Hands two gradients over, and gives autograd none for the average."""

        @staticmethod
        def forward(ctx: Any, map: Tensor, averaged: Tensor, rectified: Tensor) -> Tensor:
            return map.sum()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
            of_map.hand(grads[0], weights[0])
            of_averaged.hand(grads[1], weights[1])
            return grads[2], None, grads[3]

    (found,) = torch.autograd.grad(Reader.apply(map, averaged, rectified), x)
    rectified, averaged = reference.rectify_average(x)
    value = (0.3 * grads[0] * x - 2.0 * grads[1] * averaged).sum()
    value = value + (grads[2] * x + grads[3] * rectified).sum()
    (expected,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(found, expected)


def test_parts_that_are_not_asked_for() -> None:
    x = random_map((2, 3, 4, 4))
    rectified, averaged = ops.rectify_average(x, True, False)
    assert averaged.numel() == 0
    g = random_map((2, 3, 4, 4))
    one = torch.ones(())
    assert torch.equal(ops.rectify_average_backward(rectified, [g], [], [], [], []), g * (x > 0))
    assert torch.equal(ops.rectify_average_backward(None, [], [g], [one], [], []), g)


def test_the_relu_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert rectifies(x)
    assert torch.equal(rectify(x), x.relu())
    assert torch.autograd.gradcheck(rectify, (x,))
    assert torch.autograd.gradgradcheck(rectify, (x,))


def test_what_it_can_rectify() -> None:
    x = torch.randn(2, 3, 5, 4)
    assert rectifies(x)
    assert rectifies(x.bfloat16())
    assert not rectifies(x.half())
    assert not rectifies(x[0])
    assert not rectifies(x.to("meta"))


def test_any_layout_is_accepted() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    for layout in (x, x.transpose(2, 3).contiguous().transpose(2, 3), x[:, :, ::2]):
        rectified, averaged = ops.rectify_average(layout, True, True)
        assert torch.equal(rectified, layout.relu())
        torch.testing.assert_close(averaged, reference.rectify_average(layout)[1])


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


def test_weights_of_any_type() -> None:
    g = random_map((2, 3, 4, 4))
    grads, weights = [g] * len(NUMBERS), [w.clone() for w in NUMBERS]
    total = sum(float(w) for w in weights)
    torch.testing.assert_close(backward(None, [], grads, weights, [], []), total * g)
    with pytest.raises(ValueError, match="identity_weights must hold one number each"):
        backward(None, [], [g], [torch.ones(2)], [], [])


def test_gradients_of_another_type() -> None:
    x, g = random_map((2, 3, 4, 4), torch.float32), random_map((2, 3, 4, 4), torch.float32)
    one = torch.ones(())
    both = backward(x.relu(), [g.double()], [x], [one], [g.double()], [one])
    assert torch.equal(both, backward(x.relu(), [g], [x], [one], [g], [one]))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "shape", [(2, 16, 9, 7), (3, 5, 4, 6), (64, 16, 32, 32), (64, 32, 16, 16), (64, 64, 8, 8)]
)
def test_cuda_is_as_the_cpu_in_float64(
    cuda: torch.device, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    unit = TOLERANCE[dtype]
    close = partial(torch.testing.assert_close, rtol=unit, atol=unit)
    x = random_map(shape, dtype)
    for relu, average in ((True, True), (True, False), (False, True)):
        expected = ops.rectify_average(x.double(), relu, average)
        outputs = ops.rectify_average(x.to(cuda), relu, average)
        for got, want in zip(outputs, expected, strict=True):
            close(got.cpu().double(), want)

    for counts in ((6, 3, 3), (0, 0, 1), (2, 0, 0), (0, 3, 0), (3, 0, 2), (30, 30, 30)):
        readers = [[random_map(shape, dtype) for _ in range(n)] for n in counts]
        through_relu, identity, averages = readers
        v = [w for _, w in zip(identity, cycle(NUMBERS))]
        u = [w for _, w in zip(averages, cycle(NUMBERS[::-1]))]
        wide = [[g.double() for g in group] for group in readers]
        want = backward(x.double().relu(), wide[0], wide[1], v, wide[2], u)
        through_relu, identity, averages = ([g.to(cuda) for g in group] for group in readers)
        # The last kind of weight stays on the CPU.
        v, u = ([w if w.dtype == torch.int64 else w.to(cuda) for w in ws] for ws in (v, u))
        got = backward(x.to(cuda).relu(), through_relu, identity, v, averages, u)
        # Terms cancel; and more than a launch takes are rounded to the map's type in between.
        close(got.cpu().double(), want, atol=(16 if sum(counts) > 64 else 4) * unit)


def test_cuda_takes_any_layout(cuda: torch.device) -> None:
    x = torch.randn(2, 8, 5, 4)
    memory = torch.randn(2 * 8 * 5 * 4 + 1, device=cuda)
    off = memory[1:].view(2, 5, 4, 8).permute(0, 3, 1, 2)  # not on a 16-byte boundary
    off.copy_(x)
    for layout in (x.to(cuda), x.to(cuda, memory_format=torch.channels_last), off):
        rectified, averaged = ops.rectify_average(layout, True, True)
        assert torch.equal(rectified.cpu(), x.relu())
        torch.testing.assert_close(averaged.cpu(), reference.rectify_average(x)[1])
        one = torch.ones((), device=cuda)
        grad = backward(rectified, [layout], [layout], [one], [layout], [one])
        want = backward(x.relu(), [x], [x], [one.cpu()], [x], [one.cpu()])
        torch.testing.assert_close(grad.cpu(), want)


def test_cuda_backward_can_be_captured(cuda: torch.device) -> None:
    x, *grads = (random_map((2, 16, 8, 8), torch.float32).to(cuda) for _ in range(4))
    weights = torch.rand(2, device=cuda)
    v, u = weights.unbind()

    def both() -> tuple[Tensor, Tensor, Tensor]:
        rectified, averaged = ops.rectify_average(x, True, True)
        ones = grads[2].new_ones((), dtype=torch.float64)
        grad = backward(rectified, grads[:1], grads[1:], [v, ones], grads[:2], [u, v])
        return rectified, averaged, grad

    both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = both()
    for tensor in (x, weights, *grads):  # the replay reads what is there by then
        tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    for got, want in zip(outputs, both(), strict=True):
        assert torch.equal(got, want)


def test_opcheck() -> None:
    x = random_map((2, 3, 4, 4), torch.float32)
    torch.library.opcheck(ops.rectify_average.default, (x, True, True))
    weight = torch.rand(())
    args = (x.relu(), [x, x], [x], [weight], [x, x], [weight, weight])
    torch.library.opcheck(ops.rectify_average_backward.default, args)
