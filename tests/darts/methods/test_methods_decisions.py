"""Methods that decide between epochs: PT, SGAS, DARTS-ES, DARTS+, random search."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.methods.base import one_hot
from darts.methods.fixing import OPEN, REMOVED
from darts.methods.hessian import largest_eigenvalue
from darts.supernet import build_supernet
from tests.darts.methods.method_helpers import Pair, make, ranked, set_logits, some_batch


@pytest.fixture(scope="module")
def batch() -> Pair:
    return some_batch()


class Judge:
    """A trainer whose accuracy is a known function of β: Σ value·β, by edge and operation."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def evaluate(self, weights: Any, *, images: int | None = None) -> Any:
        score = sum(float((self.values[cell] * beta).sum()) for cell, beta in weights.items())
        return -score, score

    def allows(self, genotype: Any) -> bool:
        return True


def test_pt_picks_the_operation_whose_removal_hurts_most() -> None:
    method = make("darts-pt")
    set_logits(method, torch.zeros(6, 5))
    values = ranked()
    judge = Judge({"cell": values})
    for edge in range(6):
        assert method.missed_operation(judge, "cell", edge) == int(values[edge].argmax())
    method.options = type(method.options)(criterion="loss")
    assert method.missed_operation(judge, "cell", 3) == int(values[3].argmax())


def test_pt_decides_every_edge_and_tunes_in_between() -> None:
    method = make("darts-pt", epochs=4, options={"interval": 3})
    assert method.epochs == 4 + 3 * 5
    values = ranked()
    count = []
    for epoch in range(method.epochs):
        method.begin_epoch(epoch)
        method.end_epoch(Judge({"cell": values}))
        count.append(len(method.undecided("cell")))
    assert count == [6, 6, 6, 5, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0]
    assert method.fixed["cell"] == values.argmax(-1).tolist()
    assert torch.equal(method.weights()["cell"], one_hot(values.argmax(-1), values))
    assert method.learning_rate(5) == pytest.approx(0.0025)
    assert not method.alpha_moves


def test_pt_keeps_the_two_edges_that_each_node_misses_most() -> None:
    method = make("darts-pt", space="s1", epochs=1, options={"interval": 1})
    generator = torch.Generator().manual_seed(1)
    values = {cell: torch.rand(14, 2, generator=generator) + 0.1 for cell in ("normal", "reduce")}
    for epoch in range(method.epochs):
        method.begin_epoch(epoch)
        method.end_epoch(Judge(values))
    for cell, table in method.space.cells.items():
        best = values[cell].max(-1).values
        assert not method.undecided(cell)
        for node in table.nodes:
            edges = table.incoming(node)
            kept = {e for e in edges if method.fixed[cell][e] != REMOVED}
            assert kept == set(sorted(edges, key=lambda e: -float(best[e]))[:2])


def test_pt_with_fixed_alpha_never_moves_it() -> None:
    method = make("darts-pt-fixed")
    assert not method.alpha_moves
    torch.testing.assert_close(method.weights()["cell"], torch.full((6, 5), 0.2))


def test_sgas_fixes_the_important_and_certain_edge_to_its_strongest_operation() -> None:
    method = make("sgas")
    logits = torch.zeros(6, 5)
    logits[4] = torch.tensor([-4.0, 0, 0, 6, 0])  # little `none`, one clear operation
    logits[2] = torch.tensor([9.0, 0, 0, 6, 0])  # as clear, but mostly `none`
    logits[1] = torch.tensor([-4.0, 1, 1, 1, 1])  # no `none`, but undecided
    set_logits(method, logits)
    method.begin_epoch(9)
    method.end_epoch(None)
    assert method.fixed["cell"] == [OPEN, OPEN, OPEN, OPEN, 3, OPEN]
    assert torch.equal(method.weights()["cell"][4], torch.tensor([0.0, 0, 0, 1, 0]))
    for epoch in (10, 13, 14):
        method.begin_epoch(epoch)
        method.end_epoch(None)
    assert len(method.undecided("cell")) == 4


def test_sgas_drops_the_rest_of_a_node_with_two_edges() -> None:
    method = make("sgas", space="s1")
    method.fixed["normal"][2] = 1
    method.fixed["normal"][4] = 0
    method.remove_surplus("normal")
    assert method.fixed["normal"][2:5] == [1, REMOVED, 0]
    assert not method.weights()["normal"][3].any()


def test_sgas_pt_takes_the_operation_that_is_missed() -> None:
    method = make("sgas-pt")
    values = ranked()
    method.begin_epoch(9)
    method.end_epoch(Judge({"cell": values}))
    (edge,) = [e for e, choice in enumerate(method.fixed["cell"]) if choice != OPEN]
    weighted = values[edge] * torch.softmax(method.logits["cell"], -1)[edge]
    assert method.fixed["cell"][edge] == int(weighted.argmax())


def test_largest_eigenvalue_is_the_dense_hessians() -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return (a.sin().sum() * b.cos().prod() + (a[:, :1] * b).tanh().square()).sum()

    dense = torch.func.hessian(lambda x: loss(x[:12].view(4, 3), x[12:]))(
        torch.cat([a.flatten(), b]).detach()
    )
    exact = float(torch.linalg.eigvalsh(dense)[-1])
    assert largest_eigenvalue(lambda: loss(a, b), [a, b]) == pytest.approx(exact, rel=1e-8)


def test_es_measures_the_hessian_of_the_supernets_loss(batch: Pair) -> None:
    method = make("darts-es")
    torch.manual_seed(1)
    net = build_supernet(method.space, channels=4, cells=1, classes=10).double()
    method.logits = {"cell": method.logits["cell"].detach().double().requires_grad_()}
    images, labels = batch[0].double(), batch[1]

    def loss(weights: Any) -> Any:
        return torch.nn.functional.cross_entropy(net(images, weights), labels)

    trainer = SimpleNamespace(validation_loss=loss)
    dense = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda x: loss({"cell": torch.softmax(x.view(6, 5), -1)}), method.logits["cell"].flatten()
    )
    exact = float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])
    assert method.curvature(trainer) == pytest.approx(exact, rel=1e-3)


def test_es_goes_back_to_before_the_eigenvalue_grew(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"every": 2, "window": 3, "lag": 2, "factor": 1.3, "earliest": 2}
    method = make("darts-es", options=settings)
    values = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.1, 2.0, 3.0])
    monkeypatch.setattr(method, "curvature", lambda trainer: next(values))
    for epoch in range(40):
        method.begin_epoch(epoch)
        set_logits(method, torch.full((6, 5), float(epoch)))
        method.end_epoch(None)
        if method.finished:
            break
    # Means of three end at 1, 1, 1, 1.03, 1.37 (epoch 12): 1.37 > 1.3·1, whose centre is epoch 6.
    assert epoch == 12
    assert torch.equal(method.logits["cell"].detach(), torch.full((6, 5), 6.0))


def test_darts_plus_stops_at_the_second_skip_connection() -> None:
    method = make("darts-plus")
    logits = torch.zeros(6, 5)
    logits[:, 3] = 1
    logits[0, 1] = 2
    set_logits(method, logits)
    method.end_epoch(None)
    assert not method.finished
    logits[5, 1] = 2
    set_logits(method, logits)
    method.end_epoch(None)
    assert method.finished


def test_darts_plus_can_stop_at_a_stable_ranking() -> None:
    method = make("darts-plus", options={"skips": 6, "patience": 3})
    for epoch in range(4):
        assert not method.finished
        set_logits(method, ranked() * (epoch + 1))
        method.end_epoch(None)
    assert method.finished


def test_random_search_draws_uniformly_and_takes_the_best() -> None:
    method = make("random", options={"samples": 400})
    counts = sum(method.draw()["cell"] for _ in range(5000)) / 5000
    torch.testing.assert_close(counts, torch.full((6, 5), 0.2), atol=0.03, rtol=0)
    values = torch.zeros(6, 5)
    values[0, 2] = values[1, 4] = 1.0
    genotype = method.select(Judge({"cell": values}))
    assert [c.operation for c in genotype.cell("cell")[:2]] == ["nor_conv_1x1", "avg_pool_3x3"]


def test_random_search_draws_architectures_of_the_darts_space() -> None:
    method = make("random", space="darts")
    seen = set()
    for _ in range(200):
        drawn = method.draw()
        genotype = method.space.derive(drawn)
        for cell, beta in drawn.items():
            table = method.space.cells[cell]
            chosen = {(c.source, c.target): c.operation for c in genotype.cell(cell)}
            live = {
                table.edges[e]: table.candidates[e][int(row.argmax())]
                for e, row in enumerate(beta)
                if row.any()
            }
            assert chosen == live
            seen |= {e for e, row in enumerate(beta) if row.any()}
    assert seen == set(range(14))
