"""A search under bounds: the term's gradient, its weight, and what is selected."""

from pathlib import Path
from typing import Any

import pytest
import torch

from darts.budgets.budget import Budget
from darts.budgets.costs import Sizes, count
from darts.config import BudgetConfig, ConfigError
from darts.data import ImageSet, load
from darts.errors import UserError
from darts.recipes import configure
from darts.spaces import DARTS, NB201, S3, Space
from darts.training.evaluate import cost
from darts.training.evaluation_config import configure_evaluation
from darts.training.search import Callback, Search

SIZES = Sizes(16, 1, 10, (3, 8, 8))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load("digits")


def prepared(images: ImageSet, **settings: Any) -> Search:
    config = configure(
        **{
            "epochs": 2,
            "data": {"batch_size": 256},
            "supernet": {"channels": 4, "cells": 1},
            "arch": {"warmup": 0},
            **settings,
        }
    )
    return Search(config, images=images)


def random_logits(space: Space) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(cell.shape, generator=source).requires_grad_()
        for name, cell in space.cells.items()
    }


def test_expected_cost_is_that_of_drawn_architectures() -> None:
    """On nb201, where edges are independent: the mean over β, in float64."""
    budget = Budget(NB201, BudgetConfig(params=1e5, macs=1e7), SIZES, "cpu")
    beta = {c: a.detach().softmax(-1) for c, a in random_logits(NB201).items()}
    expected = budget.expected(beta)
    for kind, limit, value in zip(("params", "macs"), (1e5, 1e7), expected, strict=True):
        edges = count(NB201, SIZES, kind).edges["cell"]
        reference = sum(
            float(b) * float(c)
            for row, costs in zip(beta["cell"], edges, strict=True)
            for b, c in zip(row, costs, strict=True)
        )
        assert float(value) == pytest.approx(reference / limit, rel=1e-5)


@pytest.mark.parametrize("space", [DARTS, S3], ids=lambda space: space.name)
def test_where_edges_are_left_out_two_a_node_count_and_none_never(space: Space) -> None:
    sizes = Sizes(16, 5, 10, (3, 8, 8))
    budget = Budget(space, BudgetConfig(params=1e6), sizes, "cpu")
    for name, cell in space.cells.items():
        chances = budget.distribution(name, random_logits(space)[name].detach().softmax(-1))
        assert not any(
            chances[e, row.index("none")] for e, row in enumerate(cell.candidates) if "none" in row
        )
        for node in cell.nodes:
            assert float(chances[list(cell.incoming(node))].sum()) == pytest.approx(2, rel=1e-5)


def test_pull_is_the_weight_times_a_unit_of_the_objectives_gradient() -> None:
    budget = Budget(NB201, BudgetConfig(params=1e5), SIZES, "cpu")
    logits = random_logits(NB201)
    objective = [torch.full((6, 5), 0.3)]

    def pulled() -> torch.Tensor:
        beta = {c: a.softmax(-1) for c, a in logits.items()}
        return budget.pull(beta, list(logits.values()), objective)[0]

    torch.testing.assert_close(pulled(), objective[0], rtol=0, atol=0)
    budget.weights.fill_(2.0)
    more = (pulled() - objective[0]).double()
    assert float(more.norm()) == pytest.approx(2 * float(objective[0].norm()), rel=1e-5)
    alpha = logits["cell"].detach().double().requires_grad_()
    costs = count(NB201, SIZES, "params").edges["cell"]
    (slope,) = torch.autograd.grad((alpha.softmax(-1) * costs).sum(), alpha)
    torch.testing.assert_close(more / more.norm(), slope / slope.norm(), rtol=1e-4, atol=1e-5)


def test_weight_follows_the_derived_network() -> None:
    budget = Budget(NB201, BudgetConfig(params=110_000), SIZES, "cpu")
    large = NB201.derive({"cell": torch.eye(5)[[3] * 6]})
    small = NB201.derive({"cell": torch.eye(5)[[1] * 6]})
    budget.adapt(large)
    ratio = budget.costs(large)["params"] / 110_000
    assert float(budget.weights) == pytest.approx(torch.tensor(ratio).log().item(), rel=1e-5)
    for _ in range(20):
        budget.adapt(small)
    assert float(budget.weights) == 0


@pytest.mark.parametrize("method", ["darts-v1", "edd", "gdas", "gaea-bilevel", "random"])
def test_a_found_network_is_within_the_budget(method: str, images: ImageSet) -> None:
    search = prepared(images, method=method, budget={"params": 9e4, "macs": 3e6})
    result = search.run()
    params, macs = cost(configure_evaluation(genotype=str(result.genotype)), images)
    assert params <= 9e4
    assert macs <= 3e6
    last = result.history[-1]["budget"]
    assert set(last) == {"params", "macs"}
    assert search.budget
    assert search.budget.summary(result.genotype).startswith(f"{params:,} parameters of 90,000")


def test_the_dear_operations_lose_weight(images: ImageSet) -> None:
    """The term's sign: α of 3x3 convolutions is lower than without a budget."""
    free, bound = (
        prepared(images, method="darts-v1", epochs=4, budget={"params": params})
        for params in (0, 75_000)
    )
    free.run()
    bound.run()
    three = 3
    means = [float(s.method.probabilities()["cell"][:, three].mean()) for s in (free, bound)]
    assert means[1] < means[0]


def test_resumed_is_the_same(images: ImageSet, tmp_path: Path) -> None:
    class Stop(Callback):
        def stepped(self, search: Search, step: Any, steps: int) -> None:
            if search.epoch == 2:
                raise KeyboardInterrupt

    settings: dict[str, Any] = {"method": "edd", "epochs": 3, "budget": {"params": 8e4}}
    once = prepared(images, **settings).run()
    first = prepared(images, out=str(tmp_path / "run"), **settings)
    first.callbacks = [Stop()]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    again = Search(first.config, images=images, resume=True).run()

    def kept(history: list[dict[str, Any]]) -> list[Any]:
        return [{k: v for k, v in record.items() if "seconds" not in k} for record in history]

    assert kept(again.history) == kept(once.history)
    assert again.genotype == once.genotype


def test_what_cannot_be_met_is_said_before_the_search(images: ImageSet) -> None:
    with pytest.raises(UserError, match=r"budget\.params=1000 .* smallest network has 73,\d+ par"):
        prepared(images, budget={"params": 1000})
    with pytest.raises(ConfigError, match=r"budget\.params must be at least 0"):
        prepared(images, budget={"params": -1})
    with pytest.raises(ConfigError, match=r"budget\.latency needs budget\.table"):
        prepared(images, budget={"latency": 3})
    with pytest.raises(ConfigError, match=r"budget\.table needs budget\.latency"):
        prepared(images, budget={"table": "table.json"})


def test_the_network_that_is_bounded_can_be_another_size(images: ImageSet) -> None:
    search = prepared(images, method="darts-v1", budget={"macs": 2e7, "channels": 8, "cells": 3})
    result = search.run()
    config = configure_evaluation(
        genotype=str(result.genotype), network={"channels": 8, "cells": 3}
    )
    assert search.budget
    assert search.budget.costs(result.genotype)["macs"] == cost(config, images)[1] <= 2e7


def test_bounds_that_exclude_each_other() -> None:
    """Few parameters need pooling, little time needs convolutions, in this table of its own."""
    budget = Budget(NB201, BudgetConfig(params=80_000, macs=1e8), SIZES, "cpu")
    params, macs = budget.bounds["params"], budget.bounds["macs"]
    inverted = macs.costs.edges["cell"].max() - macs.costs.edges["cell"]
    costs = type(macs.costs)(macs.costs.constant, {"cell": inverted})
    least = costs.of(NB201, NB201.derive({"cell": torch.eye(5)[[3] * 6]}))
    budget.bounds = {"params": params, "macs": macs._replace(costs=costs, limit=least + 1)}
    with pytest.raises(UserError, match="cannot be met by one network; each of them alone can"):
        budget._check()
