"""sn-softmax under everything that PyTorch does to an operator."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from snsoftmax import SNSoftmax, reference, sn_softmax

T, ST = 0.1, 0.7
PARAMETERS = [
    {"scale": None},
    {"scale": 7.0},
    {"smooth_temperature": ST},
]


@pytest.fixture(autouse=True)
def _no_fallbacks() -> Iterator[None]:
    """A missing batching rule is only a warning; here it is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*")
        yield


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(4, 5, generator=generator, dtype=torch.float64)


@pytest.fixture
def probe() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 5, generator=generator, dtype=torch.float64)


def smooth_of(parameters: dict[str, float | None]) -> float | None:
    if "smooth_temperature" in parameters:
        return parameters["smooth_temperature"]
    scale = parameters["scale"]
    return None if scale is None else scale * T


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_jacobian_is_eq_7(logits: Tensor, parameters: dict[str, float | None]) -> None:
    """Reverse and forward mode give A_t/t + A_st/(st), built from Eq. 5's matrix."""
    a = logits[0]

    def matrix(t: float) -> Tensor:
        p = torch.softmax(a / t, -1)
        return (torch.diag(p) - torch.outer(p, p)) / t

    st = smooth_of(parameters)
    expected = matrix(T) + (matrix(st) if st is not None else 0)
    f: Callable[[Tensor], Tensor] = lambda x: sn_softmax(x, T, **parameters)  # type: ignore[call-overload]  # noqa: E731
    torch.testing.assert_close(jacrev(f)(a), expected)
    torch.testing.assert_close(jacfwd(f)(a), expected)
    value, tangent = jvp(f, (a,), (a,))  # type: ignore[misc]
    torch.testing.assert_close(value, torch.softmax(a / T, -1))
    torch.testing.assert_close(tangent, expected @ a)


@pytest.mark.parametrize("entropy", [False, True])
def test_gradcheck_of_ordinary_softmax(logits: Tensor, entropy: bool) -> None:
    """Without the smooth term the derivatives are the value's own, so finite differences apply."""
    a = logits.requires_grad_()

    def f(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return sn_softmax(x, T, scale=None, return_entropy=entropy)  # type: ignore[call-overload, no-any-return]

    assert torch.autograd.gradcheck(
        f, (a,), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(f, (a,), check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("st", [None, ST])
@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("with_entropy", [True, False])
def test_gradcheck_of_the_backward(
    logits: Tensor, probe: Tensor, st: float | None, with_grad: bool, with_entropy: bool
) -> None:
    """The double backward is the derivative of Eq. 8, smooth term included."""
    if not (with_grad or with_entropy):
        pytest.skip("no gradient comes in")
    t = torch.tensor(T, dtype=torch.float64)
    smooth = None if st is None else torch.tensor(st, dtype=torch.float64)
    g = probe.requires_grad_() if with_grad else None
    gh = probe[:, 0].detach().clone().requires_grad_() if with_entropy else None
    inputs = tuple(x for x in (g, gh, logits.requires_grad_()) if x is not None)

    def f(*tensors: Tensor) -> Tensor:
        rest = list(tensors)
        first = rest.pop(0) if with_grad else None
        second = rest.pop(0) if with_entropy else None
        out: Tensor = torch.ops.snsoftmax.sn_softmax_backward(
            first, second, rest[0], t, smooth, None, -1
        )
        return out

    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, inputs)


def test_hessian(logits: Tensor, probe: Tensor) -> None:
    ours = hessian(lambda x: (sn_softmax(x, T, scale=None) * probe).sum())(logits)
    torch.testing.assert_close(
        ours, hessian(lambda x: (torch.softmax(x / T, -1) * probe).sum())(logits)
    )
    smooth = hessian(lambda x: (sn_softmax(x, T, smooth_temperature=ST) * probe).sum())(logits)
    sharp = hessian(lambda x: (reference.sn_softmax(x, T, ST, -1) * probe).sum())(logits)
    torch.testing.assert_close(smooth, sharp)


def test_hessian_of_entropy_at_saturation() -> None:
    a = torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64)
    assert hessian(lambda x: sn_softmax(x, 1e-4, return_entropy=True)[1])(a).abs().max() == 0


def test_grad_transform(logits: Tensor, probe: Tensor) -> None:
    ours = grad(lambda x: (sn_softmax(x, T, smooth_temperature=ST) * probe).sum().sin())(logits)
    oracle = grad(lambda x: (reference.sn_softmax(x, T, ST, -1) * probe).sum().sin())(logits)
    torch.testing.assert_close(ours, oracle)


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_vmap_over_logits_and_temperatures(in_dim: int) -> None:
    a = torch.randn(3, 3, 3, dtype=torch.float64)
    t = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    p, h = vmap(
        lambda x, y: sn_softmax(x, y, smooth_temperature=y * 2, dim=0, return_entropy=True),
        in_dims=(in_dim, 0),
    )(a, t)
    for i in range(3):
        one, e = sn_softmax(
            a.select(in_dim, i), t[i], smooth_temperature=t[i] * 2, dim=0, return_entropy=True
        )
        torch.testing.assert_close(p[i], one)
        torch.testing.assert_close(h[i], e)


def test_vmap_of_temperature_alone_and_of_scalars() -> None:
    a = torch.randn(4, 5, dtype=torch.float64)
    t = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    out = vmap(lambda y: sn_softmax(a, y))(t)
    torch.testing.assert_close(out, torch.stack([sn_softmax(a, y.item()) for y in t]))
    p, h = vmap(lambda x: sn_softmax(x, 0.5, return_entropy=True))(torch.randn(6))
    assert torch.equal(p, torch.ones(6))
    assert torch.equal(h, torch.zeros(6))


def test_vmap_of_grad_per_sample(probe: Tensor) -> None:
    a = torch.randn(3, 4, 5, dtype=torch.float64)
    t = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        p, h = sn_softmax(x, y, smooth_temperature=1.0, return_entropy=True)
        return (p * probe).sum() + h.pow(2).sum()

    ours = vmap(grad(loss))(a, t)
    torch.testing.assert_close(ours, torch.stack([grad(loss)(a[i], t[i]) for i in range(3)]))


@pytest.mark.parametrize("op", ["sn_softmax", "sn_softmax_entropy", "sn_softmax_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_opcheck(op: str, dtype: torch.dtype, layout: str) -> None:
    make = {
        "contiguous": lambda: torch.randn(6, 5),
        "transposed": lambda: torch.randn(5, 6).t(),
        "strided": lambda: torch.randn(6, 10)[:, ::2],
    }[layout]
    a = make().to(dtype).detach().requires_grad_()
    t, st = torch.tensor(0.3), torch.tensor(1.0)
    op_type = torch.float64 if dtype == torch.float64 else torch.float32
    leading: tuple[Tensor, ...] = ()
    if op == "sn_softmax_backward":
        leading = (
            make().to(dtype).detach().requires_grad_(),
            torch.randn(6, dtype=op_type, requires_grad=True),
        )
    overload = getattr(torch.ops.snsoftmax, op).default
    torch.library.opcheck(overload, (*leading, a, t, None, 50.0, -1))
    torch.library.opcheck(overload, (*leading, a, t, st, None, -1))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_compile_once_for_all_temperatures(as_tensor: bool) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def f(a: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        p, h = sn_softmax(a, t, smooth_temperature=1.0, return_entropy=True)
        return p * 2, h

    compiled = torch.compile(f, fullgraph=True, backend=counter)
    for i, rows in enumerate((6, 6, 7, 8, 9)):
        t: float | Tensor = 0.1 + 0.1 * i
        t = torch.tensor(t) if as_tensor else t
        a = torch.randn(rows, 5, requires_grad=True)
        b = a.detach().clone().requires_grad_()
        p, h = compiled(a, t)
        q, k = f(b, t)
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(h, k)
        (p.pow(2).sum() + h.sum()).backward()
        (q.pow(2).sum() + k.sum()).backward()
        torch.testing.assert_close(a.grad, b.grad)
    # The first shape and number are specialised, the second of each is dynamic for good.
    assert counter.frame_count <= 3


@pytest.mark.slow
def test_compile_with_inductor() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda a: sn_softmax(a.sin(), 0.1).cos(), fullgraph=True)
    a = torch.randn(6, 5, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    compiled(a).pow(2).sum().backward()
    sn_softmax(b.sin(), 0.1).cos().pow(2).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def _loss(a: Tensor) -> Tensor:
    p, h = sn_softmax(a, T, return_entropy=True)
    return p.pow(2).sum() + h.sum()


def test_compiled_autograd_of_a_compiled_function(logits: Tensor) -> None:
    torch._dynamo.reset()
    a = logits.requires_grad_()
    (expected,) = torch.autograd.grad(_loss(a), a)
    compiled = torch.compile(_loss, fullgraph=True, backend="aot_eager")
    with compiled_autograd._enable(torch.compile(backend="eager")):
        compiled(a).backward()
    torch.testing.assert_close(a.grad, expected)


def test_compiled_autograd_of_an_eager_call_is_refused_in_a_sentence(logits: Tensor) -> None:
    loss = _loss(logits.requires_grad_())
    with (
        compiled_autograd._enable(torch.compile(backend="eager")),
        pytest.raises(NotImplementedError, match=r"^snsoftmax: compiled autograd cannot trace SNS"),
    ):
        loss.backward()


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = torch.nn.Parameter(torch.randn(6, 5))
        self.softmax = SNSoftmax(smooth_temperature=1.0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        beta: Tensor = self.softmax(self.alpha, t)
        return x @ beta


def test_export_and_reload() -> None:
    net = _Net()
    x, t = torch.randn(3, 6), torch.tensor(0.1)
    dynamic = {"x": {0: torch.export.Dim("rows")}, "t": None}
    program = torch.export.export(net, (x, t), dynamic_shapes=dynamic)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for rows, temperature in ((3, 0.1), (7, 0.01)):
        x, t = torch.randn(rows, 6), torch.tensor(temperature)
        torch.testing.assert_close(loaded(x, t), net(x, t))


def test_functional_call_and_deepcopy() -> None:
    net = _Net()
    x, t = torch.randn(3, 6), torch.tensor(0.1)
    alpha = torch.randn(6, 5)
    expected = x @ sn_softmax(alpha, t, smooth_temperature=1.0)
    torch.testing.assert_close(functional_call(net, {"alpha": alpha}, (x, t)), expected)
    assert torch.equal(copy.deepcopy(net)(x, t), net(x, t))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_float32(dtype: torch.dtype) -> None:
    a = torch.randn(4, 5).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p, h = sn_softmax(a, 0.3, return_entropy=True)
        assert sn_softmax(a, 0.3).dtype == torch.float32
    assert p.dtype == torch.float32
    assert torch.equal(p, sn_softmax(a.float(), 0.3))
    (p.pow(2).sum() + h.sum()).backward()
    assert a.grad is not None
    assert a.grad.dtype == dtype


def test_deterministic_mode_and_threads() -> None:
    a = torch.randn(5000, 33)
    threads = torch.get_num_threads()
    try:
        torch.use_deterministic_algorithms(True)
        results = []
        for n in (1, 2, 1):
            torch.set_num_threads(n)
            results.append(sn_softmax(a, 0.1))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_dispatch_modes_and_subclasses_see_the_operator() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Marked(torch.Tensor):
        pass

    a = torch.randn(2, 3)
    with Record():
        p = sn_softmax(a, 0.5)
    assert any("snsoftmax.sn_softmax" in name for name in seen)
    assert torch.equal(p, sn_softmax(a, 0.5))
    marked = sn_softmax(a.as_subclass(Marked), 0.5)
    assert isinstance(marked, Marked)
    assert torch.equal(marked.as_subclass(torch.Tensor), p)


def test_nothing_of_the_tensors_size_is_kept() -> None:
    """Beyond the logits and the result, the graph holds no memory that grows with them."""
    a = torch.randn(64, 1000, requires_grad=True)
    saved: list[int] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(0 if x.data_ptr() == a.data_ptr() else x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        sn_softmax(a, torch.tensor(0.1)).sum().backward()
    assert len(saved) == 2
    assert sum(saved) == 1


def test_numbers_are_numbers_under_another_default_device() -> None:
    logits = torch.randn(3, 4)
    with torch.device("meta"):
        p = sn_softmax(logits, 0.1, smooth_temperature=1.0)
    assert torch.equal(p, sn_softmax(logits, 0.1, smooth_temperature=1.0))
