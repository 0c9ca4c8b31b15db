"""The operator on a GPU, against float64 on the CPU. Needs ``--device cuda``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from snsoftmax import reference, sn_softmax

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# A tile, lanes, registers, shared memory, streams, split rows, strided rows.
SHAPES = [
    ((6, 5), -1),
    ((33, 8), -1),
    ((19, 100), -1),
    ((300, 1000), -1),
    ((200, 5000), -1),
    ((150, 50257), -1),
    ((1, 200_000), -1),
    ((4, 130, 33), 1),
    ((2, 1000, 3), 1),
]
T, ST = 0.25, 25.0


def close(got: Tensor, want: Tensor, dtype: torch.dtype, dim: int) -> None:
    unit = torch.finfo(dtype).eps
    opmath = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    sums = 50 + want.shape[dim] ** 0.5  # roundings of a sum over a row
    bound = 2 * unit * want.abs() + sums * opmath * want.abs().amax(dim, keepdim=True)
    bound = bound + torch.finfo(dtype).tiny
    assert ((got.double().cpu() - want).abs() <= bound).all()
    # Zeros would not pass in any row that has more than one element.
    assert want.shape[dim] == 1 or (want.abs() > bound).any(dim).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_every_regime(
    cuda: torch.device, shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(dtype)
    grad = torch.randn(shape, generator=generator).to(dtype)
    exact = logits.double().requires_grad_()
    p = reference.sn_softmax(exact, T, ST, dim)
    (d,) = torch.autograd.grad(p, exact, grad.double())

    a = logits.to(cuda).requires_grad_()
    temperature = torch.tensor(T, device=cuda)
    got, entropy = sn_softmax(a, temperature, scale=ST / T, dim=dim, return_entropy=True)
    (got_d,) = torch.autograd.grad(got, a, grad.to(cuda))
    close(got.detach(), p.detach(), dtype, dim)
    close(got_d, d, dtype, dim)
    h = reference.entropy(p.detach(), dim)
    torch.testing.assert_close(entropy.detach().double().cpu(), h, rtol=1e-4, atol=1e-5)


def test_same_bits_every_time(cuda: torch.device) -> None:
    for shape in ((1000, 37), (64, 50257), (1, 300_000)):
        a = torch.randn(shape, device=cuda, requires_grad=True)
        grad = torch.randn(shape, device=cuda)
        results = []
        for _ in range(3):
            p = sn_softmax(a, 0.1)
            results.append((p, *torch.autograd.grad(p, a, grad)))
        for again in results[1:]:
            assert all(torch.equal(x, y) for x, y in zip(results[0], again, strict=True))


def test_captured_graph_sees_a_new_temperature(cuda: torch.device) -> None:
    a = torch.randn(28, 8, device=cuda, requires_grad=True)
    grad = torch.randn(28, 8, device=cuda)
    t = torch.tensor(1.0, device=cuda)

    def step() -> tuple[Tensor, Tensor]:
        p = sn_softmax(a, t)
        return p, torch.autograd.grad(p, a, grad)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for value in (1.0, 0.1, 1e-3):
        t.fill_(value)
        graph.replay()
        for got, want in zip(captured, step(), strict=True):
            assert torch.equal(got, want)
