"""The tables of the spaces."""

from __future__ import annotations

import pytest
import torch

from darts.spaces import (
    DARTS,
    DARTS_WITHOUT_NONE,
    NB201,
    S1,
    S2,
    S3,
    S4,
    SPACES,
    Cell,
    Space,
    get_space,
)


def test_nb201_has_15625_architectures() -> None:
    cell = NB201.cells["cell"]
    assert cell.shape == (6, 5)
    assert [f"{t}<-{s}" for s, t in cell.edges] == ["1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"]
    assert cell.shape[1] ** cell.shape[0] == 15625


@pytest.mark.parametrize("space", [DARTS, DARTS_WITHOUT_NONE, S1, S2, S3, S4])
def test_darts_cells_connect_every_node_to_all_before(space: object) -> None:
    cells = space.cells  # type: ignore[attr-defined]
    assert list(cells) == ["normal", "reduce"]
    for cell in cells.values():
        assert len(cell.edges) == 14
        for node in cell.nodes:
            assert [cell.edges[e][0] for e in cell.incoming(node)] == list(range(node))
    assert [cells["normal"].stride(e) for e in range(14)] == [1] * 14
    strides = [cells["reduce"].stride(e) for e in range(14)]
    assert strides == [2 if source < 2 else 1 for source, _ in cells["reduce"].edges]


def test_s1_keeps_the_two_best_operations_of_each_edge() -> None:
    """Some rows of the authors' table, and how often each operation occurs in it."""
    normal, reduce = (S1.cells[name].candidates for name in ("normal", "reduce"))
    assert normal[0] == ("skip_connect", "dil_conv_3x3")
    assert normal[5] == ("max_pool_3x3", "skip_connect")
    assert normal[13] == ("dil_conv_3x3", "dil_conv_5x5")
    assert reduce[4] == ("skip_connect", "dil_conv_5x5")
    assert reduce[6] == ("max_pool_3x3", "sep_conv_3x3")

    def census(table: tuple[tuple[str, ...], ...]) -> dict[str, int]:
        flat = [operation for row in table for operation in row]
        return {operation: flat.count(operation) for operation in set(flat)}

    assert census(normal) == {
        "skip_connect": 12,
        "dil_conv_3x3": 6,
        "dil_conv_5x5": 4,
        "sep_conv_3x3": 4,
        "max_pool_3x3": 2,
    }
    assert census(reduce) == {
        "max_pool_3x3": 8,
        "avg_pool_3x3": 6,
        "skip_connect": 6,
        "dil_conv_5x5": 5,
        "dil_conv_3x3": 2,
        "sep_conv_3x3": 1,
    }


def test_candidates_of_the_other_spaces() -> None:
    assert set(S2.cells["normal"].candidates) == {("skip_connect", "sep_conv_3x3")}
    assert set(S3.cells["reduce"].candidates) == {("none", "skip_connect", "sep_conv_3x3")}
    assert set(S4.cells["normal"].candidates) == {("noise", "sep_conv_3x3")}
    assert DARTS_WITHOUT_NONE.cells["normal"].shape == (14, 7)
    assert (
        DARTS.cells["normal"].candidates[0][1:] == DARTS_WITHOUT_NONE.cells["normal"].candidates[0]
    )


def test_get_space_names_the_choices() -> None:
    assert all(get_space(name) is space for name, space in SPACES.items())
    with pytest.raises(ValueError, match="space='nb101' is unknown; choose from nb201"):
        get_space("nb101")


def test_malformed_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="one row per edge"):
        Cell(1, ((0, 1),), ())
    with pytest.raises(ValueError, match="same number of operations"):
        Cell(1, ((0, 1), (0, 2)), (("none",), ("none", "skip_connect")))
    with pytest.raises(ValueError, match="later, inner one"):
        Cell(1, ((1, 1),), (("none",),))
    with pytest.raises(ValueError, match="'conv_3x3' is not one of avg_pool_3x3"):
        Cell(1, ((0, 1),), (("conv_3x3",),))
    cell = Cell(1, ((0, 1),), (("none",),))
    with pytest.raises(ValueError, match=r"cells \['mine'\] must be \['cell'\]"):
        Space("mine", "nb201", {"mine": cell})


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has shape \(6, 4\), must be \(6, 5\)"):
        NB201.derive({"cell": torch.zeros(6, 4)})
    with pytest.raises(ValueError, match=r"must be \['cell'\]"):
        NB201.derive({"normal": torch.zeros(6, 5)})


def test_a_space_says_what_methods_ask_of_it() -> None:
    said = {
        name: (space.stacked, space.leaves_edges_out, space.decisions, space.many_candidates)
        for name, space in SPACES.items()
    }
    stacked, two_inputs = (True, False, 6, False), (False, True, 8)
    assert said == {
        "nb201": stacked,
        "nb201-without-none": stacked,
        "transnas": stacked,
        "darts": (*two_inputs, True),
        "darts-without-none": (*two_inputs, True),
        **dict.fromkeys(("s1", "s2", "s3", "s4"), (*two_inputs, False)),
        "nats-sizes": (False, False, 5, False),
        **dict.fromkeys(("1shot1-1", "1shot1-2"), (False, False, 4, False)),
        "1shot1-3": (False, False, 5, False),
        **dict.fromkeys(("mobilenet", "mobilenet-32"), (False, False, 15, False)),
    }


def test_decisions_are_counted_from_the_table() -> None:
    edges = ((0, 1), (0, 2), (1, 2))
    cell = Cell(1, edges, (("none", "skip_connect"),) * len(edges))
    assert Space("three", "nb201", {"cell": cell}).decisions == 3
