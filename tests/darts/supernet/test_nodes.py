"""The supernet of cells whose nodes carry the operations, against one written in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from darts.networks.network import build_network
from darts.spaces import ONE_SHOT_1, ONE_SHOT_2, ONE_SHOT_3, Space
from darts.spaces.one_shot import one_shot
from darts.supernet import Supernet, build_supernet, live_operations
from darts.supernet.nodes import SearchNodes

ALL = (ONE_SHOT_1, ONE_SHOT_2, ONE_SHOT_3)
KEPT = {"1shot1-1": (1, 2, 2, 2, 2), "1shot1-2": (1, 1, 2, 2, 3), "1shot1-3": (1, 1, 1, 2, 2, 2)}
Weights = dict[str, Tensor]


def supernet(space: Space) -> Supernet:
    torch.manual_seed(0)
    return build_supernet(space, channels=5, cells=1, classes=3).double()


def mixed(space: Space) -> Weights:
    return {
        name: torch.randn(cell.shape, dtype=torch.float64).softmax(-1).requires_grad_()
        for name, cell in space.cells.items()
    }


def drawn(space: Space) -> Weights:
    """Of a random architecture."""
    return {
        name: beta.double()
        for name, beta in space.discrete(
            space.derive({n: torch.rand(c.shape) for n, c in space.cells.items()})
        ).items()
    }


def conventional(net: Supernet, images: Tensor, weights: Weights) -> Tensor:
    """Every map of every candidate, weighed and added up as NAS-Bench-1Shot1's paper says."""
    kept = KEPT[net.space.name]
    x: Tensor = net.skeleton.get_submodule("stem")(images)
    for cell in net.skeleton.get_submodule("cells").children():
        if isinstance(cell, nn.MaxPool2d):
            x = cell(x)
            continue
        assert isinstance(cell, SearchNodes)
        maps: list[Tensor] = []
        for node, operations in enumerate(cell.candidates, start=1):
            read = [cell.projections[node - 1](x), *maps]
            shares = weights[f"inputs-{node}"][0] if kept[node - 1] < node else torch.ones(node)
            entering = sum((w * m for w, m in zip(shares, read, strict=True)), torch.zeros(()))
            beta = weights["operations"][node - 1]
            parts = [b * o(entering) for b, o in zip(beta, operations.children(), strict=True)]
            maps.append(sum(parts[1:], parts[0]))
        first, *others = weights["output"][0]
        beside = torch.cat([w * m for w, m in zip(others, maps, strict=True)], 1)
        x = beside + first * cell.projections[-1](x)
    features = net.skeleton.get_submodule("last")(x).mean((2, 3))
    logits: Tensor = net.skeleton.get_submodule("classifier")(features)
    return logits


@pytest.mark.parametrize("space", ALL, ids=lambda space: space.name)
def test_outputs_and_gradients_are_a_conventional_supernets(space: Space) -> None:
    net, images = supernet(space), torch.randn(4, 3, 9, 9, dtype=torch.float64)
    weights = mixed(space)
    inputs = [*weights.values(), *net.parameters()]
    outcomes = [net(images, weights), conventional(net, images, weights)]
    torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(o.logsumexp(1).sum(), inputs) for o in outcomes]
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("space", ALL, ids=lambda space: space.name)
def test_what_has_no_weight_need_not_be_computed(space: Space) -> None:
    net, images = supernet(space), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    parameters = list(net.parameters())
    for _ in range(4):
        weights = drawn(space)
        outcomes = [net(images, weights, live) for live in (live_operations(weights), None)]
        torch.testing.assert_close(*outcomes)
        gradients = [
            torch.autograd.grad(
                o.logsumexp(1).sum(), parameters, allow_unused=True, materialize_grads=True
            )
            for o in outcomes
        ]
        for mine, its in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, its)


def test_only_what_leads_to_the_output_is_called() -> None:
    """One operation of each node that the output comes by, in each of three cells."""
    net, images = supernet(ONE_SHOT_3), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    weights = {n: torch.zeros(c.shape, dtype=torch.float64) for n, c in ONE_SHOT_3.cells.items()}
    weights["operations"][:, 1] = 1
    for name, sources in (("2", [0]), ("3", [1]), ("4", [1, 2]), ("5", [0, 3])):
        weights[f"inputs-{name}"][0, sources] = 1
    weights["output"][0, [0, 5]] = 1
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for cell in net.search_cells().values():
        assert isinstance(cell, SearchNodes)
        for candidates in cell.candidates:
            for module in candidates.children():
                module.register_forward_hook(count)
    net(images, weights, live_operations(weights))
    assert calls == 3 * len((1, 3, 5))


def test_an_architecture_in_the_supernet_adds_up_what_it_reads() -> None:
    """β of an architecture gives what its network gives, but for widths and head: here a chain
    whose output reads one node, which the supernet puts beside three zero maps."""
    space = one_shot("chain", (1, 1, 1))
    net = build_supernet(space, channels=6, cells=1, classes=3).double().eval()
    text = (
        '{"matrix": [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], '
        '"ops": ["input", "conv3x3-bn-relu", "maxpool3x3", "output"]}'
    )
    found = build_network(text, channels=6, cells=1, classes=3).double().eval()
    genotype = space.around.read(text)
    assert [name for name, _ in genotype] == list(space.cells)
    cell, alone = next(iter(net.search_cells().values())), found.get_submodule("cells.0")
    assert isinstance(cell, SearchNodes)
    alone.get_submodule("projections.1").load_state_dict(cell.projections[0].state_dict())
    alone.get_submodule("operations.0").load_state_dict(cell.candidates[0][0].state_dict())  # type: ignore[index]
    weights = {
        "operations": torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=torch.float64),
        "inputs-2": torch.tensor([[0.0, 1]], dtype=torch.float64),
        "output": torch.tensor([[0.0, 0, 1]], dtype=torch.float64),
    }
    x = torch.rand(2, 6, 8, 8, dtype=torch.float64)
    out = cell((x,), weights, live_operations(weights))
    assert not out[:, :6].any()
    torch.testing.assert_close(out[:, 6:], alone(x))


def test_nothing_read_gives_zero_and_zero_gradients() -> None:
    net, images = supernet(ONE_SHOT_2), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    cell = next(iter(net.search_cells().values()))
    x = net.skeleton.get_submodule("stem")(images)
    for name in ONE_SHOT_2.cells:
        weights = {n: b.detach() for n, b in mixed(ONE_SHOT_2).items()}
        weights[name] = torch.zeros_like(weights[name]).requires_grad_()
        out = cell((x,), weights, live_operations(weights))
        (gradient,) = torch.autograd.grad(
            out.sum(), [weights[name]], allow_unused=True, materialize_grads=True
        )
        assert out.isfinite().all()
        assert not gradient.any()
        assert name != "output" or not out.any()


def test_second_derivatives_are_right() -> None:
    space = one_shot("small", (1, 1, 2))
    net = build_supernet(space, channels=5, cells=1, classes=2).double().eval()
    cell = next(iter(net.search_cells().values()))
    torch.manual_seed(1)
    x = torch.rand(1, 5, 3, 3, dtype=torch.float64)
    weights = list(mixed(space).values())

    def loss(*betas: Tensor) -> Tensor:
        out: Tensor = cell((x,), dict(zip(space.cells, betas, strict=True)), None)
        return out.square().sum()

    assert torch.autograd.gradcheck(loss, weights)
    assert torch.autograd.gradgradcheck(loss, weights)


def test_paths_are_dropped_while_training() -> None:
    net, images = supernet(ONE_SHOT_1), torch.randn(8, 3, 8, 8, dtype=torch.float64)
    weights = {n: b.detach() for n, b in mixed(ONE_SHOT_1).items()}
    whole = net(images, weights)
    net.drop_path = 0.5
    assert not torch.equal(net(images, weights), whole)
    net.eval()
    assert torch.equal(net(images, weights), net(images, weights))


def test_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    net = build_supernet(ONE_SHOT_1, channels=8, cells=1, classes=3)
    images = torch.randn(16, 3, 16, 16)
    weights = {n: torch.full(c.shape, 1 / c.shape[1]) for n, c in ONE_SHOT_1.cells.items()}
    with torch.no_grad():
        exact = net(images, weights)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(images, weights).float()
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).norm() / exact.norm()) < 0.05


def test_what_needs_operations_on_edges_is_refused() -> None:
    with pytest.raises(ValueError, match="partial=4 needs operations on edges of cells, and 1shot"):
        build_supernet("1shot1-1", channels=8, cells=1, classes=3, partial=4)
    with pytest.raises(ValueError, match="auxiliary_skip=True needs operations on edges"):
        build_supernet("1shot1-1", channels=8, cells=1, classes=3, auxiliary_skip=True)
