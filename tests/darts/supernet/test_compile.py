"""torch.compile of a program with the supernet in it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import darts
from snsoftmax import sn_softmax

ALPHA = torch.linspace(-0.2, 0.2, 30).reshape(6, 5)
IMAGES = torch.linspace(-1, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)
LABELS = torch.arange(4)


def loss_and_gradient(net: darts.Supernet, step: object, temperature: float) -> list[Tensor]:
    alpha = ALPHA.clone().requires_grad_()
    loss = step(net, alpha, temperature)  # type: ignore[operator]
    return [loss.detach(), *torch.autograd.grad(loss, [alpha, *net.parameters()])]


def step(net: darts.Supernet, alpha: Tensor, temperature: float) -> Tensor:
    beta = {"cell": sn_softmax(alpha, temperature, scale=100)}
    return F.cross_entropy(2 * net(IMAGES, beta), LABELS)


@pytest.mark.slow
def test_a_compiled_step_is_compiled_once_for_all_temperatures() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    net = darts.build_supernet("nb201", channels=4, cells=1, classes=4)
    compiled = torch.compile(step, backend=backend)
    for temperature in (1.0, 0.3, 0.1, 0.03, 0.01):
        expected = loss_and_gradient(net, step, temperature)
        found = loss_and_gradient(net, compiled, temperature)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    # Before and behind the network, once for a constant temperature and once for any.
    assert 2 <= len(graphs) <= 4
