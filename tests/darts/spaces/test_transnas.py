"""TransNAS-Bench-101's cell-level space."""

from __future__ import annotations

import pytest
import torch

from darts.networks.genotype import Choice, Genotype
from darts.networks.network import build_network
from darts.spaces import TRANSNAS, Cell, Space
from darts.supernet import build_supernet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64-41414-3_33_333", 41_416_746),
        ("64-41414-1_02_123", 9_759_274),
        ("64-41414-2_10_312", 7_865_130),
    ],
)
def test_sizes_are_those_of_the_authors_network(text: str, expected: int) -> None:
    """Counted on their class MacroNet, with which outputs agree to 1e-6 too (10 classes)."""
    with torch.device("meta"):
        net = build_network(text, channels=64, cells=2, classes=10)
    assert sum(p.numel() for p in net.parameters()) == expected


def test_digits_are_operations_in_the_order_of_the_edges() -> None:
    genotype = Genotype.parse("64-41414-1_02_123")
    assert genotype.skeleton == "transnas"
    assert genotype.cell("cell") == (
        Choice("skip_connect", 0, 1),
        Choice("none", 0, 2),
        Choice("nor_conv_1x1", 1, 2),
        Choice("skip_connect", 0, 3),
        Choice("nor_conv_1x1", 1, 3),
        Choice("nor_conv_3x3", 2, 3),
    )
    assert str(genotype) == "64-41414-1_02_123"


@pytest.mark.parametrize("text", ["64-41414-4_00_000", "64-41414-000000", "64-41414-basic"])
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form '64-41414-3_33_333'"):
        Genotype.parse(text)


def test_what_it_cannot_be_is_refused() -> None:
    cell = TRANSNAS.cells["cell"]
    with pytest.raises(ValueError, match=r"must be .* for 'transnas'"):
        Space("mine", "transnas", {"cell": Cell(1, cell.edges[:3], cell.candidates[:3])})
    pooling = Cell(1, cell.edges, (("none", "avg_pool_3x3"),) * 6)
    with pytest.raises(ValueError, match="avg_pool_3x3 cannot change the number of channels"):
        build_supernet(Space("mine", "transnas", {"cell": pooling}), channels=4, cells=1, classes=3)
    with pytest.raises(ValueError, match="partial=4 needs cells that keep the number of channels"):
        build_supernet(TRANSNAS, channels=4, cells=1, classes=3, partial=4)
