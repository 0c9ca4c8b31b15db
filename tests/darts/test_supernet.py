"""The fast supernet computes what one module per operation computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darts.spaces import NB201, SPACES, Space
from darts.step import arch_step, weight_step
from darts.supernet import Supernet, build_supernet
from tests.reference.supernet import ReferenceSupernet

Pair = tuple[ReferenceSupernet, Supernet]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
SPACE_NAMES = sorted(SPACES)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.manual_seed(0)


def make_pair(
    space: Space, dtype: torch.dtype = torch.float64, track: bool = True, channels: int = 4
) -> Pair:
    cells = 1 if space.skeleton == "nb201" else 3
    reference = ReferenceSupernet(space, channels, cells, 10, track).to(dtype)
    net = build_supernet(
        space, channels=channels, cells=cells, classes=10, track_statistics=track
    ).to(dtype)
    load_conventional(net, reference)
    return reference, net


def load_conventional(net: Supernet, reference: ReferenceSupernet) -> None:
    state = reference.state_dict()
    views = net.conventional_views()
    missing = {k for k in state if not k.endswith("num_batches_tracked")} - set(views)
    assert not missing
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(state[name])


def make_alphas(space: Space, dtype: torch.dtype, scale: float = 1.0) -> dict[str, Tensor]:
    return {
        name: (scale * torch.randn(cell.shape, dtype=dtype)).requires_grad_()
        for name, cell in space.cells.items()
    }


def softmax(alphas: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: a.softmax(-1) for name, a in alphas.items()}


def one_per_edge(space: Space, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: F.one_hot(torch.arange(cell.shape[0]) % cell.shape[1], cell.shape[1]).to(dtype)
        for name, cell in space.cells.items()
    }


def make_batch(dtype: torch.dtype, n: int = 6, size: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, size, size, dtype=dtype), torch.randint(10, (n,))


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    """Deviation relative to the tensor's norm."""
    deviation = ((ours - theirs).norm() / theirs.norm().clamp_min(1e-6)).item()
    assert deviation <= tolerance, f"{what} deviates by {deviation:.2e}"


def assert_same(pair: Pair, tolerance: float, of: Callable[[Tensor], Tensor], what: str) -> None:
    reference, net = pair
    theirs = dict(reference.named_parameters())
    for name, view in net.conventional_views(of).items():
        if name in theirs:
            assert_close(view, of(theirs[name]), tolerance, f"{what} of {name}")


def assert_same_statistics(pair: Pair, tolerance: float) -> None:
    theirs = dict(pair[0].named_buffers())
    names = [n for n in pair[1].conventional_views() if n in theirs]
    assert names
    for name in names:
        view = pair[1].conventional_views()[name]
        if name.endswith("running_mean"):  # relative to the standard deviation: a mean can vanish
            std = theirs[name.replace("running_mean", "running_var")].sqrt()
            assert_close(std + view, std + theirs[name], tolerance, name)
        else:
            assert_close(view, theirs[name], tolerance, name)


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def gradients_of(net: Supernet) -> dict[str, Tensor]:
    """Copies of all gradients under conventional names."""
    buffers = ("running_mean", "running_var")
    views = net.conventional_views(gradient)
    return {k: v.clone() for k, v in views.items() if not k.endswith(buffers)}


def run_both(
    pair: Pair, step: Callable[[torch.nn.Module], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The same random numbers for both, so that S4's noise is equal."""
    logits = []
    for net in pair:
        torch.manual_seed(7)
        logits.append(step(net)[1])
    return logits[0], logits[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", SPACE_NAMES)
def test_weight_step_equals_reference(name: str, dtype: torch.dtype) -> None:
    space = SPACES[name]
    pair = make_pair(space, dtype)
    batch = make_batch(dtype, n=16, size=16)
    beta = softmax(make_alphas(space, dtype))
    theirs, ours = run_both(pair, lambda net: weight_step(net, batch, beta))
    assert_close(ours, theirs, TOLERANCE[dtype], "logits")
    assert_same(pair, TOLERANCE[dtype] * 10, gradient, "gradient")
    assert_same_statistics(pair, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", SPACE_NAMES)
def test_arch_step_equals_reference(name: str, dtype: torch.dtype) -> None:
    space = SPACES[name]
    pair = make_pair(space, dtype)
    batch = make_batch(dtype, n=16, size=16)
    alphas = make_alphas(space, dtype)
    gradients: list[list[Tensor]] = []

    def step(net: torch.nn.Module) -> tuple[Tensor, Tensor]:
        outcome = arch_step(net, batch, lambda: softmax(alphas), list(alphas.values()))
        gradients.append([gradient(a) for a in alphas.values()])
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
        return outcome

    theirs, ours = run_both(pair, step)
    assert_close(ours, theirs, TOLERANCE[dtype], "logits")
    for g_theirs, g_ours in zip(*gradients, strict=True):
        assert_close(g_ours, g_theirs, TOLERANCE[dtype] * 10, "gradient of alpha")


@pytest.mark.parametrize("track", [True, False], ids=["track", "batch"])
@pytest.mark.parametrize("name", SPACE_NAMES)
def test_evaluation_equals_reference(name: str, track: bool) -> None:
    space = SPACES[name]
    pair = make_pair(space, track=track)
    beta = {n: b.detach() for n, b in softmax(make_alphas(space, torch.float64)).items()}
    for net in pair:
        torch.manual_seed(3)
        net.train()(make_batch(torch.float64)[0], beta)
        net.eval()
    batch = make_batch(torch.float64)
    with torch.no_grad():
        theirs, ours = run_both(pair, lambda net: (batch[0], net(batch[0], beta)))
    assert_close(ours, theirs, 1e-9, "logits")


@pytest.mark.parametrize("name", SPACE_NAMES)
def test_zero_skip_changes_nothing(name: str) -> None:
    space = SPACES[name]
    if name == "s4":
        pytest.skip("fewer noise operations draw other random numbers")
    pair = make_pair(space, track=False)
    batch = make_batch(torch.float64)
    beta = one_per_edge(space, torch.float64)
    net = pair[1]
    dense = weight_step(net, batch, beta, zero_skip=False).logits
    dense_gradients = gradients_of(net)
    skipped = weight_step(net, batch, beta, zero_skip=True).logits
    assert_close(skipped, dense, 1e-9, "logits")
    for key, g in gradients_of(net).items():
        assert_close(g, dense_gradients[key], 1e-9, f"gradient of {key}")
    weight_step(pair[0], batch, beta)
    assert_same(pair, 1e-9, gradient, "gradient")


def test_dead_cell_gives_zero_and_zero_gradients() -> None:
    net = build_supernet(NB201, channels=4, cells=1, classes=10)
    weights = {"cell": torch.zeros(6, 5)}
    weight_step(net, make_batch(torch.float32), weights)
    edge_gradients = [g for name, g in gradients_of(net).items() if ".edges." in name]
    assert edge_gradients
    assert all(g.count_nonzero() == 0 for g in edge_gradients)


@pytest.mark.parametrize("zero_skip", [False, True], ids=["dense", "skip"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", SPACE_NAMES)
def test_ten_steps_equal_reference(name: str, dtype: torch.dtype, zero_skip: bool) -> None:
    """SGD on ω and Adam on α; with zero-skip β is sparse from the sixth step on."""
    space = SPACES[name]
    if name == "s4" and zero_skip:
        pytest.skip("fewer noise operations draw other random numbers")
    pair = make_pair(space, dtype, track=not zero_skip)
    start = make_alphas(space, dtype, 1e-3)
    batches = [make_batch(dtype) for _ in range(20)]
    finals = []
    for net in pair:
        torch.manual_seed(5)
        alphas = {n: a.detach().clone().requires_grad_() for n, a in start.items()}
        sgd = torch.optim.SGD(
            net.parameters(), lr=0.025, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        adam = torch.optim.Adam(alphas.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        for i in range(10):
            beta = softmax(alphas)
            if zero_skip and i >= 5:
                beta = one_per_edge(space, dtype)
            skip = zero_skip and net is pair[1]
            weight_step(net, batches[2 * i], beta, zero_skip=skip)
            sgd.step()
            arch_step(net, batches[2 * i + 1], lambda a=alphas: softmax(a), list(alphas.values()))  # type: ignore[misc]
            adam.step()
        finals.append(alphas)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-3}[dtype]
    assert_same(pair, tolerance, lambda p: p, "parameter")
    for cell in space.cells:
        assert_close(finals[1][cell], finals[0][cell], tolerance, f"alpha of {cell}")
    if not zero_skip:
        assert_same_statistics(pair, tolerance)
