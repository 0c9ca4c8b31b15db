"""SETN: the likeliest architectures are compared."""

import itertools

import pytest
import torch

from darts.methods.setn import likeliest
from tests.darts.methods.method_helpers import make, ranked, set_logits


@pytest.mark.parametrize("count", [1, 7, 81])
def test_the_likeliest_choices_are_those_of_all(count: int) -> None:
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double().log_softmax(-1)
    every = sorted(
        itertools.product(range(3), repeat=4),
        key=lambda pick: -float(sum(row[k] for row, k in zip(rows, pick, strict=True))),
    )
    assert [tuple(pick) for pick in likeliest(list(rows), count).tolist()] == every[:count]


def test_what_is_left_out_is_never_chosen() -> None:
    rows = torch.zeros(2, 3)
    rows[:, 1] = -torch.inf
    assert sorted(likeliest(list(rows), 100).tolist()) == [[0, 0], [0, 2], [2, 0], [2, 2]]


def test_candidates_are_one_hot_and_the_first_is_alphas_own() -> None:
    method = make("setn", options={"samples": 30})
    set_logits(method, ranked())
    found = method.candidates()
    assert len({str(method.space.derive(weights)) for weights in found}) == 30
    assert all((weights["cell"].sum(-1) == 1).all() for weights in found)
    assert method.space.derive(found[0]) == method.space.derive(method.scores())


def test_candidates_of_the_darts_space_keep_two_edges_a_node() -> None:
    method = make("setn", space="darts", options={"samples": 40})
    for cell in method.logits:
        set_logits(method, ranked(14, 8), cell)
    found = method.candidates()
    assert 1 < len(found) <= 40
    assert all(weights[cell].sum() == 8 for weights in found for cell in ("normal", "reduce"))
    own = method.space.discrete(method.space.derive(method.scores()))
    assert all(torch.equal(found[0][cell], beta) for cell, beta in own.items())


def test_alpha_moves_as_in_darts_and_weights_are_trained_one_path_at_a_time() -> None:
    method = make("setn")
    assert method.alpha_moves
    torch.testing.assert_close(method.weights(), method.probabilities())
    drawn = method.training_weights(None)["cell"]
    assert ((drawn == 1).sum(-1) == 1).all()
