"""Methods that change what is executed: DARTS-, PC-DARTS, R-DARTS."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.recipes import configure
from darts.supernet import build_supernet
from tests.darts.methods.method_helpers import Pair, make, some_batch


@pytest.fixture(scope="module")
def batch() -> Pair:
    return some_batch()


def outputs(method: Any, batch: Pair, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    options = method.supernet_options()
    net = build_supernet(method.space, channels=8, cells=1, classes=10, **options).double()
    method.prepare(net)
    weights = {cell: beta.double() for cell, beta in method.weights().items()}
    logits: Tensor = net(batch[0].double(), weights)
    return logits


def test_darts_minus_fades_to_darts(batch: Pair) -> None:
    method = make("darts-minus", epochs=50)
    weights = []
    for epoch in range(51):
        method.begin_epoch(epoch)
        weights.append(method.auxiliary_weight())
    assert weights == pytest.approx([1 - epoch / 50 for epoch in range(51)])
    plain = make("darts-v1")
    assert torch.equal(plain.logits["cell"], method.logits["cell"])
    torch.testing.assert_close(outputs(method, batch), outputs(plain, batch))
    method.begin_epoch(0)
    assert not torch.allclose(outputs(method, batch), outputs(plain, batch))


def test_pc_darts_with_all_channels_and_even_edges_is_darts(batch: Pair) -> None:
    method, plain = make("pc-darts", options={"partial": 1}), make("darts-v1")
    with torch.no_grad():
        for cell, edges in method.edge_logits.items():
            edges.zero_()
            into = [3 if i > 2 else (2 if i else 1) for i in range(len(edges))]
            scaled = {cell: plain.weights()[cell] / torch.tensor(into)[:, None]}
    torch.testing.assert_close(method.weights()["cell"], scaled["cell"])
    method.edge_weights = lambda cell: torch.ones(6)
    torch.testing.assert_close(outputs(method, batch), outputs(plain, batch))


def test_pc_darts_edge_weights_are_a_softmax_over_each_nodes_edges() -> None:
    method = make("pc-darts", space="s1")
    with torch.no_grad():
        method.edge_logits["normal"].copy_(torch.arange(14.0) / 5)
    weights = method.edge_weights("normal")
    start = 0
    for count in (2, 3, 4, 5):
        part = torch.arange(14.0)[start : start + count] / 5
        torch.testing.assert_close(weights[start : start + count], part.softmax(0))
        start += count
    product = torch.softmax(method.logits["normal"], -1) * weights[:, None]
    torch.testing.assert_close(method.scores()["normal"], product)
    assert len(method.parameters()) == 4


def test_r_darts_raises_the_probability_of_dropping_a_path() -> None:
    method = make("r-darts-dp", epochs=11)
    net = SimpleNamespace(drop_path=None)
    found = []
    for epoch in (0, 5, 10):
        method.begin_epoch(epoch)
        method.prepare(net)
        found.append(net.drop_path)
    assert found == pytest.approx([0, 0.1, 0.2])
    assert configure(method="r-darts-l2").weights.weight_decay == pytest.approx(27e-4)
