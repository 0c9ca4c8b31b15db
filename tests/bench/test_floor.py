"""What a step is counted to move and to compute."""

from __future__ import annotations

import pytest

from bench import floor
from darts.spaces import DARTS, NB201


@pytest.fixture(scope="module")
def darts() -> floor.Count:
    return floor.count(DARTS, channels=4, cells=3, batch=2)


def test_depthwise_convolutions_are_our_own(darts: floor.Count) -> None:
    """On a GPU no copy of a map stands before them: one for all that reads a node, and one for the
    operations that convolve twice.
    """
    sources = sum(len({source for source, _ in DARTS.cells[c].edges}) for c in _cells(3))
    forwards = 2 * sources * 2  # in two passes
    assert darts.families["snsoftmax::depthwise"].calls == forwards
    # Three nodes hold the stem's maps, of which β asks no gradient.
    assert darts.families["snsoftmax::depthwise_backward_map"].calls == forwards - 3 * 2
    assert darts.families["snsoftmax::depthwise_backward_weight"].calls == forwards // 2


def test_operations_of_the_convolutions(darts: floor.Count) -> None:
    """A depthwise gradient costs what the forward pass does; that of ω is one step's of the two."""
    forward = darts.families["snsoftmax::depthwise"].operations
    assert darts.families["snsoftmax::depthwise_backward_map"].operations < forward
    assert darts.families["snsoftmax::depthwise_backward_weight"].operations == forward // 2


def test_pointwise_convolutions_are_products_of_all_edges(darts: floor.Count) -> None:
    """Of all that are dilated one, of all that are separable two."""
    products = darts.families["snsoftmax::depthwise"].calls * 3 // 2
    # Gradients: of the map in both passes but of the stem's maps, of the weights in one.
    gradients = products - 3 * 3 + products // 2
    assert darts.families["aten::bmm"].calls == products + gradients


def test_grows_with_the_batch(darts: floor.Count) -> None:
    twice = floor.count(DARTS, channels=4, cells=3, batch=4)
    assert twice.operations == 2 * darts.operations
    # The chunks of the weights' gradients are as many.
    assert twice.bytes("float32") == pytest.approx(2 * darts.bytes("float32"), rel=0.05)
    assert twice.bytes("float32") == 2 * twice.bytes("bfloat16")
    assert twice.launches == darts.launches


def test_dense_convolutions_of_another_space() -> None:
    """A forward pass, and gradients of maps and weights: at most three times the forward's."""
    found = floor.count(NB201, channels=4, cells=1, batch=2)
    forward = found.families["aten::convolution"].operations
    backward = found.families["aten::convolution_backward"].operations
    assert forward < backward < 2 * forward


def _cells(count: int) -> list[str]:
    return ["reduce" if i in (count // 3, 2 * count // 3) else "normal" for i in range(count)]
