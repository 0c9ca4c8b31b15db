"""ENAS: the controller, and what it learns by."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.methods.controller import TANH, TEMPERATURE, Controller, reinforce
from darts.spaces import NB201, Cell, Space
from tests.darts.methods.method_helpers import make


def controller(space: Space) -> Controller:
    """In float64, with parameters large enough to have favourites."""
    made = Controller(space, torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return made


def lstm_cell(net: Controller, layer: int, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
    """One layer's step by its formulas: gates in, forget, new, out."""
    h, c = state
    weights = [getattr(net.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh")]
    biases = [getattr(net.lstm, f"{name}_l{layer}") for name in ("bias_ih", "bias_hh")]
    gates = weights[0] @ x + biases[0] + weights[1] @ h + biases[1]
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def replayed(net: Controller, choices: list[tuple[int, int]]) -> tuple[Tensor, float]:
    """Log-probability and entropy of one sequence of (edge, operation), decision by decision."""
    states = [(torch.zeros(32).double(), torch.zeros(32).double()) for _ in range(2)]
    x, total, surprise, taken = net.start[0, 0], torch.zeros(()).double(), 0.0, set[int]()
    for opened, choice in zip(net.open, choices, strict=True):
        for layer in range(2):
            states[layer] = lstm_cell(net, layer, x, states[layer])
            x = states[layer][0]
        scores = TANH * torch.tanh(net.operation(x) / TEMPERATURE)
        scores = scores + TANH * torch.tanh(net.edge(x) / TEMPERATURE)[:, None]
        free = opened.clone()
        free[list(taken)] = False
        logs = (scores[free] - torch.logsumexp(scores[free], 0)).detach()
        total = total + scores[choice] - torch.logsumexp(scores[free], 0)
        surprise -= float((logs.exp() * logs).sum())
        taken.add(choice[0])
        x = net.last_operation.weight[choice[1]] + net.last_edge.weight[choice[0]]
    return total, surprise


def sequence(net: Controller, table: Tensor) -> list[tuple[int, int]]:
    """The one order in which nb201 decides."""
    return [(int(e), int(k)) for e, k in table.nonzero()]


def test_its_log_probabilities_are_those_of_the_formulas_on_nb201() -> None:
    net = controller(NB201)
    drawn = net(5, torch.Generator().manual_seed(0))
    for place, table in enumerate(drawn.chosen[:2]):
        log, surprise = replayed(net, sequence(net, table))
        torch.testing.assert_close(drawn.log_probability[place], log, rtol=1e-10, atol=1e-12)
        assert float(drawn.entropy[place]) == pytest.approx(surprise, rel=1e-10)
    own = torch.autograd.grad(drawn.log_probability[0], net.operation.weight, retain_graph=True)
    log, _ = replayed(net, sequence(net, drawn.chosen[0]))
    torch.testing.assert_close(own, torch.autograd.grad(log, net.operation.weight))
    torch.testing.assert_close(drawn.said.sum(-1), torch.ones(5, 6).double())


def small() -> Space:
    """Two inner nodes a cell, the second with three edges, and three operations."""
    edges = ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    row = ("none", "sep_conv_3x3", "skip_connect")
    cells = {"normal": Cell(2, edges, (row,) * 5), "reduce": Cell(2, edges, (row,) * 5, True)}
    return Space("small", "darts", cells)


def test_a_cell_of_the_darts_space_is_drawn_edge_by_edge() -> None:
    space = small()
    net = controller(space)
    drawn = net(50, torch.Generator().manual_seed(0))
    for table in drawn.chosen:
        for name, own in net.by_cell(table).items():
            cell = space.cells[name]
            assert not own[:, cell.candidates[0].index("none")].any()
            for node in cell.nodes:
                assert own[list(cell.incoming(node))].sum() == 2
                assert own[list(cell.incoming(node))].sum(-1).max() == 1
    # The two decisions of a node in one order or the other; the other nodes' are the only ones.
    table = drawn.chosen[0]
    orders: list[list[tuple[int, int]]] = [[]]
    start = 0
    for name, own in net.by_cell(table).items():
        for node in space.cells[name].nodes:
            a, b = [
                (start + e, int(own[e].argmax()))
                for e in space.cells[name].incoming(node)
                if own[e].any()
            ]
            orders = [[*o, *p] for o in orders for p in ([a, b], [b, a])]
        start += len(own)
    logs = [float(replayed(net, order)[0].detach()) for order in orders]
    assert min(abs(drawn.log_probability[0].item() - log) for log in logs) < 1e-9


def test_reinforce_is_the_plain_loop() -> None:
    logs = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rewards = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    baseline = torch.full((), torch.nan, dtype=torch.float64)
    for repeat in range(2):
        expected, b = 0.0, float(baseline)
        for log, reward in zip(logs.tolist(), rewards.tolist(), strict=True):
            b = reward if math.isnan(b) else b
            b -= (1 - 0.9) * (b - reward)
            expected += -log * (reward - b) / 7
        found = reinforce(logs, rewards, baseline, 0.9)
        assert float(found) == pytest.approx(expected, rel=1e-12), repeat
        assert float(baseline) == pytest.approx(b, rel=1e-12)


def test_it_learns_to_draw_what_is_rewarded() -> None:
    """Reward 1 for a 3x3 convolution on the last edge, on a bandit of 150 updates."""
    method = make("enas")
    wanted = method.space.cells["cell"].candidates[5].index("nor_conv_3x3")
    before = float(method.probabilities()["cell"][5, wanted])
    for _ in range(150):
        drawn = method.controller(20, method.generator)
        rewards = drawn.chosen[:, 5, wanted]
        loss = reinforce(drawn.log_probability, rewards, method.baseline, 0.99)
        gradients = torch.autograd.grad(
            loss, method.parameters(), allow_unused=True, materialize_grads=True
        )
        method.arch_update(list(gradients))
    assert before < 0.3
    assert float(method.probabilities()["cell"][5, wanted]) > 0.6


def test_alpha_plays_no_part() -> None:
    method = make("enas")
    assert not method.logits["cell"].any()
    generator = method.generator.get_state()
    first = method.probabilities()["cell"]
    assert torch.equal(first, method.probabilities()["cell"])
    assert torch.equal(generator, method.generator.get_state())
    torch.testing.assert_close(first.sum(-1), torch.ones(6))
