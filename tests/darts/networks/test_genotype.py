"""Derivation from β and the official formats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from darts.networks.genotype import Choice, Genotype, genotype_string
from darts.spaces import DARTS, NB201, S1, S4, SPACES, Space
from darts.spaces.nb201 import CANDIDATES

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
    "('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def drawn(space: Space, seed: int) -> dict[str, torch.Tensor]:
    """β drawn evenly."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(c.shape, generator=generator) for n, c in space.cells.items()}


@given(st.lists(st.sampled_from(CANDIDATES), min_size=6, max_size=6))
def test_nb201_string_round_trip(operations: list[str]) -> None:
    edges = NB201.cells["cell"].edges
    choices = tuple(Choice(o, *edge) for o, edge in zip(operations, edges, strict=True))
    genotype = Genotype("nb201", (("cell", choices),))
    a, b, c, d, e, f = operations
    assert str(genotype) == f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
    assert Genotype.parse(str(genotype)) == genotype


@given(st.integers(0, 2**31), st.sampled_from(sorted(SPACES)))
def test_derived_genotypes_survive_their_text(seed: int, name: str) -> None:
    space = SPACES[name]
    weights = drawn(space, seed)
    genotype = space.derive(weights)
    assert Genotype.parse(genotype_string(genotype)) == genotype


def test_the_order_of_a_nodes_edges_does_not_matter() -> None:
    official = "|none~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    other = "|none~0|+|skip_connect~1|nor_conv_3x3~0|+|avg_pool_3x3~2|none~0|none~1|"
    assert Genotype.parse(other) == Genotype.parse(official)
    assert str(Genotype.parse(other)) == official


def test_darts_tuple_of_the_darts_paper() -> None:
    genotype = Genotype.parse(DARTS_V2)
    assert genotype.cell("normal")[7] == Choice("dil_conv_3x3", 2, 5)
    assert genotype.cell("reduce")[2] == Choice("skip_connect", 2, 3)
    assert str(genotype) == DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)")


def test_nb201_takes_the_strongest_operation_even_none() -> None:
    weights = torch.zeros(6, 5)
    weights[torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 3])] = 1.0
    assert str(NB201.derive({"cell": weights})) == (
        "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|nor_conv_3x3~2|"
    )


def test_darts_keeps_the_two_strongest_edges_and_never_none() -> None:
    weights = {name: torch.full(cell.shape, 0.1) for name, cell in DARTS.cells.items()}
    normal = weights["normal"]
    normal[:, 0] = 0.9  # none
    normal[2, 4] = 0.3  # node 3 from 0
    normal[4, 7] = 0.4  # node 3 from 2
    choices = DARTS.derive(weights).cell("normal")
    assert choices[2:4] == (Choice("dil_conv_5x5", 2, 3), Choice("sep_conv_3x3", 0, 3))
    assert all(c.operation != "none" for c in choices)
    assert [c.target for c in choices] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert choices[:2] == (Choice("max_pool_3x3", 0, 2), Choice("max_pool_3x3", 1, 2))


def test_s1_reads_each_edges_own_candidates() -> None:
    weights = {name: torch.tensor([[0.4, 0.6]] * 14) for name in ("normal", "reduce")}
    for name, cell in S1.cells.items():
        for operation, source, target in S1.derive(weights).cell(name):
            assert operation == cell.candidates[cell.edges.index((source, target))][1]


def test_s4_may_choose_noise() -> None:
    weights = {name: torch.tensor([[0.6, 0.4]] * 14) for name in ("normal", "reduce")}
    genotype = S4.derive(weights)
    assert {c.operation for c in genotype.cell("normal")} == {"noise"}
    assert Genotype.parse(str(genotype)) == genotype


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nor_conv_3x3", "must be an NB201 string"),
        ("|nor_conv_3x3~0|+|none~0|none~2|", "leads to an earlier node"),
        ("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "'conv' is not one of"),
        ("|none~0|+none~0|", "is not of the form"),
        ("Genotype(normal=[])", "must have 8 pairs"),
        ("Genotype(normal=[('sep_conv_3x3', 5)] * 8)", "is not a DARTS Genotype"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"), "unknown source"),
        (DARTS_V2.replace("dil_conv_3x3", "dil_conv_7x7"), "is not one of"),
        (DARTS_V2.replace("[2, 3, 4, 5]", "[4, 5]"), "must concatenate nodes 2 to 5"),
        ("Genotype(", "is not a DARTS Genotype"),
    ],
)
def test_malformed_text_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Genotype.parse(text)


@given(st.integers(0, 2**31), st.sampled_from(sorted(SPACES)))
def test_discrete_weights_derive_their_genotype(seed: int, name: str) -> None:
    space = SPACES[name]
    weights = drawn(space, seed)
    genotype = space.derive(weights)
    pruned = space.discrete(genotype)
    space.check(pruned)
    again = space.derive(pruned)  # equal weights: a node's two edges come in the table's order
    assert [set(choices) for _, choices in again.cells] == [
        set(choices) for _, choices in genotype.cells
    ]
    chosen = sum(len(choices) for _, choices in genotype.cells)
    assert sum(float(beta.sum()) for beta in pruned.values()) == chosen
