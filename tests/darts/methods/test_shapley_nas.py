"""Shapley-NAS: operations are credited with the accuracy that goes with them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.darts.methods.method_helpers import make, ranked


class Game:
    """Accuracy as a sum over what is left, and one pair that counts only together."""

    def __init__(self, values: Tensor, pair: float = 0.0) -> None:
        self.values, self.pair = values, pair
        self.asked: list[int] = []

    def evaluate(self, weights: Any, *, images: int | None = None) -> tuple[float, float]:
        there = weights["cell"] > 0
        self.asked.append(int(there.sum()))
        together = self.pair * float(there[0, 0] and there[5, 4])
        return 0.0, float(self.values[there].sum()) + together


def shapley(**options: Any) -> Any:
    return make("shapley-nas", epochs=6, options={"orders": 4, "threshold": -1e9, **options})


def test_in_a_sum_each_operation_loses_its_own_value() -> None:
    values = ranked().abs()
    method = shapley()
    torch.testing.assert_close(method.lost(Game(values)).view(6, 5), values, rtol=1e-5, atol=1e-5)


def test_a_pair_is_credited_to_each_half_of_the_time() -> None:
    method, game = shapley(), Game(torch.zeros(6, 5), pair=8.0)
    mean = torch.stack([method.lost(game) for _ in range(400)]).mean(0).view(6, 5)
    assert float(mean[0, 0] + mean[5, 4]) == pytest.approx(8.0)
    assert abs(float(mean[0, 0]) - 4.0) < 1.0  # a deviation of 0.2
    assert mean.count_nonzero() == 2


def test_an_order_ends_below_its_share_of_the_first_accuracy() -> None:
    method, game = shapley(threshold=0.5), Game(torch.ones(6, 5))
    lost = method.lost(game)
    assert game.asked == list(range(30, 13, -1))  # 14 of 30 are less than half
    assert lost.sum() == 16


def test_alpha_is_the_plain_loops() -> None:
    method, game = shapley(), Game(ranked().abs(), pair=3.0)
    alpha, average = method.logits["cell"].detach().clone(), torch.zeros(6, 5)
    drawn = torch.Generator().manual_seed(0)
    method.generator.set_state(drawn.get_state())
    for epoch in range(6):
        method.begin_epoch(epoch)
        method.end_epoch(game)
        if epoch in (2, 3, 4):
            orders = []
            for _ in range(4):
                there, lost = torch.ones(6, 5, dtype=torch.bool), torch.zeros(6, 5)
                for entry in torch.randperm(30, generator=drawn).tolist():
                    row, column = divmod(entry, 5)
                    before = game.evaluate({"cell": there.float()})[1]
                    there[row, column] = False
                    lost[row, column] = before - game.evaluate({"cell": there.float()})[1]
                orders.append(lost)
            credit = torch.stack(orders).mean(0) - torch.stack(orders).std(0, unbiased=False)
            average = 0.8 * average + 0.2 * (credit - credit.mean()) / credit.std()
            alpha += 0.1 * average
        torch.testing.assert_close(method.logits["cell"].detach(), alpha, rtol=1e-4, atol=1e-5)
    assert not method.alpha_moves
