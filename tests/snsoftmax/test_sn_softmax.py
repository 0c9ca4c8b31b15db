"""sn-softmax against its float64 composition, in value, gradient and entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import snsoftmax
from snsoftmax import SNSoftmax, reference, sn_softmax

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Every loop of the CPU kernels: short rows by register and by buffer, long rows, rows along
# another dimension; whole vectors and tails of each.
SHAPES = [
    ((6, 5), -1),
    ((28, 8), -1),
    ((64, 2), -1),
    ((33, 4), -1),
    ((35, 16), -1),
    ((17, 7), -1),
    ((9, 32), -1),
    ((9, 33), -1),
    ((3, 1000), -1),
    ((2, 50257), -1),
    ((1, 200_000), -1),
    ((8, 100), 0),
    ((4, 7, 9), 1),
    ((4, 70, 33), 1),
    ((5, 6, 2), 0),
    ((7, 1), -1),
    ((5,), 0),
    ((), 0),
]
TEMPERATURES = [(1.0, None), (0.1, 1.0), (1e-3, 0.1), (1e-4, 1.0)]


def rounding(dtype: torch.dtype) -> float:
    """One rounding of a result; opmath is float32 for the half types."""
    return torch.finfo(dtype).eps


def oracle(
    logits: Tensor, grad: Tensor, grad_entropy: Tensor, t: float, st: float | None, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The float64 composition: p, H and the gradient of <p, grad> + <H, grad_entropy>."""
    a = logits.detach().double().requires_grad_()
    p = reference.sn_softmax(a, t, st, dim)
    log_p = torch.log_softmax(a / t, dim)  # H's own derivative, exact where p is zero
    h = -(log_p.exp() * log_p).nan_to_num(0.0).sum(dim)
    (d,) = torch.autograd.grad((p, h), a, (grad.double(), grad_entropy.double()))
    return p.detach(), h.detach(), d


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
@pytest.mark.parametrize(("t", "st"), TEMPERATURES, ids=str)
def test_matches_float64_composition(
    dtype: torch.dtype, shape: tuple[int, ...], dim: int, t: float, st: float | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (0.1 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    grad = torch.randn(shape, generator=generator).to(dtype)
    p, h = sn_softmax(logits, t, scale=None, smooth_temperature=st, dim=dim, return_entropy=True)
    grad_entropy = torch.randn(h.shape, generator=generator, dtype=h.dtype)
    (d,) = torch.autograd.grad((p, h), logits, (grad, grad_entropy))
    p64, h64, d64 = oracle(logits, grad, grad_entropy, t, st, dim)

    assert p.shape == logits.shape
    assert p.dtype == dtype
    assert h.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    op = torch.finfo(h.dtype).eps
    steepness = 1.0 / t  # z = a/t carries a rounding of |a|/t, which exp turns into a relative one
    torch.testing.assert_close(
        p.double(), p64, rtol=rounding(dtype) + 8 * op * (1 + steepness), atol=4 * op
    )
    torch.testing.assert_close(h.double(), h64, rtol=1e-5, atol=64 * op * (1 + steepness / 100))
    # g − <p, g> is rounded at the size of g, then divided by t.
    size = (grad.abs().max() + grad_entropy.abs().max()).item()
    torch.testing.assert_close(
        d.double(), d64, rtol=2 * rounding(dtype), atol=4 * op * size * (1 + steepness)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), [s for s in SHAPES if s[0] and s[0][s[1]] > 1], ids=str)
def test_the_smooth_term_alone(dtype: torch.dtype, shape: tuple[int, ...], dim: int) -> None:
    """Where softmax(A/t) is exactly one-hot the gradient is J_st g / st, to its own size."""
    generator = torch.Generator().manual_seed(0)
    logits = 0.1 * torch.randn(shape, generator=generator).movedim(dim, -1)
    logits[..., 0] = 4.0
    logits = logits.movedim(-1, dim).to(dtype).requires_grad_()
    grad = torch.randn(shape, generator=generator).to(dtype)
    p = sn_softmax(logits, 1e-3, scale=None, smooth_temperature=1.0, dim=dim)
    assert ((p == 0) | (p == 1)).all()
    (d,) = torch.autograd.grad(p, logits, grad)
    a = logits.detach().double().requires_grad_()
    q = torch.softmax(a, dim)
    (expected,) = torch.autograd.grad(q, a, grad.double())
    info = torch.finfo(dtype)
    op = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    size = q.detach() * grad.double().abs().amax(dim, keepdim=True)  # g − <q, g> before it cancels
    bound = 2 * info.eps * expected.abs() + 64 * op * size + info.tiny * info.eps
    assert ((d.double() - expected).abs() <= bound).all()
    assert (expected.abs() > bound).double().mean() > 0.9  # nearly no zero would pass


@pytest.mark.parametrize("scale", [100.0, 2.0, 5000.0])
def test_scale_is_a_smooth_temperature(scale: float) -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(6, 5, dtype=torch.float64)
    by_scale = sn_softmax(logits, 0.2, scale=scale)
    by_value = sn_softmax(logits, 0.2, smooth_temperature=0.2 * scale)
    assert torch.equal(by_scale, by_value)
    first = torch.autograd.grad(by_scale, logits, grad)[0]
    second = torch.autograd.grad(by_value, logits, grad)[0]
    torch.testing.assert_close(first, second, rtol=1e-13, atol=0)


def test_default_scale_is_the_papers_100() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 4, dtype=torch.float64)
    (ours,) = torch.autograd.grad(sn_softmax(logits, 0.5), logits, grad)
    sharp = reference.jacobian_vector_product(logits, grad, 0.5, -1)
    smooth = reference.jacobian_vector_product(logits, grad, 50.0, -1)
    torch.testing.assert_close(ours, sharp + smooth)  # Eq. 8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturation(dtype: torch.dtype) -> None:
    """At t = 1e-4 the rest are exact zeros, J_t vanishes, and the gradient does not (Eq. 7)."""
    logits = torch.tensor([[0.5, 0.25, 0.0, -1.0, 0.125]], dtype=dtype, requires_grad=True)
    grad = torch.tensor([[1.0, -1.0, 0.5, 2.0, 0.0]], dtype=dtype)
    p = sn_softmax(logits, 1e-4, smooth_temperature=1.0)
    assert p.tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]
    (d,) = torch.autograd.grad(p, logits, grad)
    smooth = reference.jacobian_vector_product(logits.double(), grad.double(), 1.0, -1)
    torch.testing.assert_close(d.double(), smooth, rtol=4 * rounding(dtype), atol=1e-6)
    assert d.abs().min() > 1e-3
    off = sn_softmax(logits, 1e-4, scale=None)
    assert torch.autograd.grad(off, logits, grad)[0].abs().max() == 0


@pytest.mark.parametrize("size", [5, 8, 40, 3000])
def test_row_temperatures(size: int) -> None:
    logits = torch.randn(2, 3, size, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 3, size, dtype=torch.float64)
    t = torch.rand(3, 1, dtype=torch.float64) + 0.1
    st = torch.rand(2, 1, 1, dtype=torch.float64) + 1
    p, h = sn_softmax(logits, t, smooth_temperature=st, return_entropy=True)
    (d,) = torch.autograd.grad((p, h.sum()), logits, (grad, torch.ones(())))
    for i in range(2):
        for j in range(3):
            a = logits[i, j]
            p1, h1 = sn_softmax(
                a, t[j].item(), smooth_temperature=st[i].item(), return_entropy=True
            )
            (d1,) = torch.autograd.grad((p1, h1), a, (grad[i, j], torch.ones(())))
            torch.testing.assert_close(p[i, j], p1)
            torch.testing.assert_close(h[i, j], h1)
            torch.testing.assert_close(d[i, j], d1)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_any_strides(dim: int) -> None:
    base = torch.randn(4, 6, 10, dtype=torch.float64)
    t = torch.rand([1 if i == dim % 3 else n for i, n in enumerate((6, 10, 4))]).double() + 0.1
    layouts = {
        "permuted": base.permute(1, 2, 0),
        "expanded": base.permute(1, 2, 0)[:, :1].expand(6, 10, 4),
        "strided": torch.randn(12, 10, 8, dtype=torch.float64)[::2, :, ::2],
    }
    for name, a in layouts.items():
        grad = torch.randn(4, 10, 6, dtype=torch.float64).permute(2, 1, 0)
        a = a.detach().requires_grad_()
        p, h = sn_softmax(a, t, dim=dim, return_entropy=True)
        b = a.detach().contiguous().requires_grad_()
        q, k = sn_softmax(b, t, dim=dim, return_entropy=True)
        torch.testing.assert_close(p, q, msg=name)
        torch.testing.assert_close(h, k, msg=name)
        gh = torch.randn_like(h)
        (d,) = torch.autograd.grad((p, h), a, (grad, gh))
        (e,) = torch.autograd.grad((q, k), b, (grad, gh))
        torch.testing.assert_close(d, e, msg=name)


def test_temperature_tensor_is_read_at_the_call() -> None:
    logits = torch.randn(6, 5)
    for dtype in (torch.float32, torch.float64, torch.float16):
        t = torch.tensor(0.25, dtype=dtype)
        assert torch.equal(sn_softmax(logits, t), sn_softmax(logits, 0.25))
        t.fill_(0.5)
        assert torch.equal(sn_softmax(logits, t), sn_softmax(logits, 0.5))


def test_temperature_changed_before_backward_is_noticed() -> None:
    logits = torch.randn(6, 5, requires_grad=True)
    t = torch.tensor(0.25)
    p = sn_softmax(logits, t)
    t.fill_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        p.sum().backward()


def test_second_backward_needs_retain_graph() -> None:
    logits = torch.randn(6, 5, requires_grad=True)
    p = sn_softmax(logits, 1.0)
    p.sum().backward(retain_graph=True)
    p.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        p.sum().backward()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,), (2, 0, 4), (0, 0), (1, 2, 0, 1)])
def test_empty(shape: tuple[int, ...]) -> None:
    for dim in range(len(shape)):
        logits = torch.empty(shape, requires_grad=True)
        p, h = sn_softmax(logits, 1.0, dim=dim, return_entropy=True)
        assert p.shape == shape
        assert torch.equal(h, torch.zeros(shape[:dim] + shape[dim + 1 :]))
        (d,) = torch.autograd.grad((p, h), logits, (torch.ones_like(p), torch.ones_like(h)))
        assert d.shape == shape


def test_more_than_2_31_elements() -> None:
    """Shapes; the kernels' arithmetic on such offsets is tested beside them, in sparse memory."""
    logits = torch.empty(1, device="meta").expand(2**17, 2**16)
    p, h = sn_softmax(logits, 1.0, return_entropy=True)
    assert p.shape == (2**17, 2**16)
    assert p.stride() == (2**16, 1)
    assert h.shape == (2**17,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [8, 1000])
def test_large_results_in_the_memory_of_earlier_ones(dtype: torch.dtype, size: int) -> None:
    """As often as they are freed and made anew, and while one of them is still held."""
    logits = torch.randn(28 * 2**20 // (size * dtype.itemsize), size).to(dtype).requires_grad_()
    grad = torch.randn_like(logits)
    first = sn_softmax(logits, 1.0)
    (d,) = torch.autograd.grad(first, logits, grad)
    expected = torch.softmax(logits.detach().float(), -1)
    torch.testing.assert_close(
        first.float(), expected, rtol=2 * rounding(dtype), atol=2 * rounding(torch.float32)
    )
    held = first.clone(), d.clone()
    for _ in range(6):
        p = sn_softmax(logits, 1.0)
        (e,) = torch.autograd.grad(p, logits, grad)
        assert torch.equal(p, held[0])
        assert torch.equal(e, held[1])
        p.zero_()
        del p, e
    assert torch.equal(first, held[0])
    first.data.resize_(0)  # the storage is one like any other


@pytest.mark.parametrize("size", [3, 8, 30, 40, 300])
@pytest.mark.parametrize("dim", [0, 1])
def test_infinite_and_nan_logits(size: int, dim: int) -> None:
    """−inf is an exact zero; NaN, +inf or nothing but −inf make the row NaN, and only that row."""
    inf = math.inf
    logits = torch.zeros(5, size)
    logits[0, 1:] = -inf
    logits[1, :] = -inf
    logits[2, 1] = math.nan
    logits[3, 0] = inf
    logits.requires_grad_()
    view = logits if dim == 1 else logits.t()
    p, h = sn_softmax(view, 0.5, dim=dim, return_entropy=True)
    (d,) = torch.autograd.grad(p.pow(2).sum() + h.sum(), logits)
    p = p if dim == 1 else p.t()
    assert p[0].tolist() == [1.0] + [0.0] * (size - 1)
    assert h[0] == 0
    assert d[0].isfinite().all()
    for row in (1, 2, 3):
        assert p[row].isnan().all()
        assert h[row].isnan()
        assert d[row].isnan().all()
    torch.testing.assert_close(p[4], torch.full((size,), 1 / size))
    torch.testing.assert_close(h[4], torch.tensor(math.log(size)))
    assert d[4].isfinite().all()


def test_entropy_of_known_distributions() -> None:
    uniform = torch.zeros(1, 8)
    assert sn_softmax(uniform, 0.01, return_entropy=True)[1].item() == pytest.approx(math.log(8))
    one_hot = torch.tensor([[1.0, 0.0, 0.0]])
    assert sn_softmax(one_hot, 1e-4, return_entropy=True)[1].item() == 0.0


def test_gradient_only_through_entropy() -> None:
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    h = sn_softmax(logits, 0.3, return_entropy=True)[1]
    p = torch.softmax(logits / 0.3, -1)
    expected = torch.autograd.grad(reference.entropy(p, -1).sum(), logits)[0]
    torch.testing.assert_close(torch.autograd.grad(h.sum(), logits)[0], expected)


def test_module_is_the_function() -> None:
    logits = torch.randn(6, 5)
    assert torch.equal(SNSoftmax(0.1)(logits), sn_softmax(logits, 0.1))
    assert torch.equal(SNSoftmax(0.3)(logits, 0.1), sn_softmax(logits, 0.1))
    module = SNSoftmax(smooth_temperature=1.0, dim=0)
    expected = sn_softmax(logits, 0.1, smooth_temperature=1.0, dim=0)
    assert torch.equal(module(logits, 0.1), expected)
    assert "smooth_temperature=1.0" in repr(module)
    for got, want in zip(
        SNSoftmax(0.2, return_entropy=True)(logits),
        sn_softmax(logits, 0.2, return_entropy=True),
        strict=True,
    ):
        assert torch.equal(got, want)


def test_module_in_a_sequence() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 4), SNSoftmax(0.1))
    x = torch.randn(3, 8)
    assert torch.equal(net(x), sn_softmax(net[0](x), 0.1))


def test_a_modules_tensors_are_buffers() -> None:
    module = SNSoftmax(torch.tensor(0.1), smooth_temperature=torch.tensor(2.0))
    assert set(module.state_dict()) == {"temperature", "smooth_temperature"}
    assert {t.dtype for t in module.double().buffers()} == {torch.float64}
    other = SNSoftmax(torch.tensor(1.0), smooth_temperature=torch.tensor(1.0))
    other.load_state_dict(module.state_dict())
    logits = torch.randn(6, 5)
    assert torch.equal(other(logits), sn_softmax(logits, 0.1, smooth_temperature=2.0))


@pytest.mark.parametrize(
    ("error", "message", "settings"),
    [
        (ValueError, "scale must be a finite number above 1", {"scale": 0.1}),
        (ValueError, "temperature must be a positive", {"temperature": -1.0}),
        (TypeError, "temperature must be a number or a tensor", {"temperature": "1"}),
        (ValueError, "not both", {"scale": 100.0, "smooth_temperature": 1.0}),
    ],
)
def test_a_module_is_checked_when_made(
    error: type[Exception], message: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        SNSoftmax(**settings)


def test_a_module_without_a_temperature_says_so() -> None:
    with pytest.raises(ValueError, match="temperature is missing"):
        SNSoftmax()(torch.zeros(3))


@pytest.mark.parametrize("compiled", [False, True])
def test_alike_in_eager_and_compiled(compiled: bool) -> None:
    def call(**settings: Any) -> Any:
        return sn_softmax(torch.zeros(2, 3), 0.1, **settings)

    run = torch.compile(call, backend="eager") if compiled else call
    assert run().shape == (2, 3)
    # The default's own value is refused beside a smooth temperature like any other.
    with pytest.raises(Exception, match="not both, got scale=100"):
        run(scale=100.0, smooth_temperature=1.0)
    with pytest.raises(Exception, match="return_entropy must be True or False, got int"):
        run(return_entropy=1)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "logits must be .* got Long", {"logits": torch.ones(3, dtype=torch.long)}),
        (TypeError, "logits must be a tensor, got list", {"logits": [1.0, 2.0]}),
        (TypeError, "temperature must be a number or a tensor, got str", {"temperature": "1"}),
        (TypeError, "temperature must be a floating.* got Long", {"temperature": torch.tensor(1)}),
        (ValueError, "temperature must be a positive finite number, got 0", {"temperature": 0.0}),
        (ValueError, "temperature must be .* got -1", {"temperature": torch.tensor(-1.0)}),
        (ValueError, "temperature must be .* got nan", {"temperature": math.nan}),
        (ValueError, "temperature must be .* got inf", {"temperature": math.inf}),
        (ValueError, "temperature must be one value", {"temperature": torch.ones(3)}),
        (ValueError, "temperature must be .* got -2", {"temperature": torch.tensor([[1.0], [-2]])}),
        (ValueError, "scale must be a finite number above 1, or None, got 1", {"scale": 1.0}),
        (TypeError, "scale must be a number or None, got str", {"scale": "s"}),
        (ValueError, "smooth_temperature must be .* got 0", {"smooth_temperature": 0.0}),
        (ValueError, "not both, got scale=7", {"scale": 7.0, "smooth_temperature": 1.0}),
        (ValueError, "not both, got scale=100", {"scale": 100.0, "smooth_temperature": 1.0}),
        (TypeError, "return_entropy must be True or False, got int", {"return_entropy": 1}),
        (IndexError, "dim must be from -2 to 1 .* got 2", {"dim": 2}),
        (ValueError, "not differentiated", {"temperature": torch.ones((), requires_grad=True)}),
    ],
)
def test_errors(error: type[Exception], message: str, arguments: dict[str, object]) -> None:
    call: dict[str, object] = {"logits": torch.zeros(2, 3), "temperature": 1.0, **arguments}
    with pytest.raises(error, match=message) as caught:
        sn_softmax(**call)  # type: ignore[call-overload]
    assert "\n" not in str(caught.value)


def test_build_info() -> None:
    info = snsoftmax.build_info()
    assert info["version"] == snsoftmax.__version__
    assert torch.__version__.startswith(info["torch"].split("+")[0])
    assert info["cpu_capability"] in ("plain", "avx2", "avx512", "avx512_bf16")
    assert (info["cuda"] is None) == (not info["cuda_architectures"])
