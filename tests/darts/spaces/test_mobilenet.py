"""The chains of inverted residuals."""

from __future__ import annotations

import itertools

import pytest
import torch

from darts.networks.chain import MOBILENET as SHAPE
from darts.networks.genotype import Genotype
from darts.networks.network import build_network
from darts.networks.table import LayerPlace
from darts.spaces import MOBILENET, MOBILENET_32, Layers, Space


def test_widths_and_strides_are_proxylessnas_s() -> None:
    places = SHAPE.places(16)
    assert len(places) == 21
    assert places[0] == LayerPlace(0, 16, 24, 2)
    firsts = [p for p in places if p.inputs != p.outputs]
    assert [p.outputs for p in firsts] == [24, 40, 80, 96, 192, 320]
    assert [p.stride for p in firsts] == [2, 2, 2, 1, 2, 1]
    assert [p.number for p in firsts] == [0, 4, 8, 12, 16, 20]


def test_a_layer_may_be_left_out_where_it_keeps_width_and_resolution() -> None:
    changing, keeping = MOBILENET.cells["changing"], MOBILENET.cells["keeping"]
    assert (changing.shape, keeping.shape) == ((6, 6), (15, 7))
    assert {row[-1] for row in keeping.candidates} == {"skip_connect"}
    assert not any("skip_connect" in row for row in changing.candidates)
    assert sorted(changing.edges + keeping.edges) == [(i, i + 1) for i in range(21)]


@pytest.mark.parametrize(("space", "side"), [(MOBILENET, 7), (MOBILENET_32, 4)])
def test_resolution_of_the_last_maps(space: Space, side: int) -> None:
    """A 32nd of 224 pixels, an 8th of 32."""
    genotype = space.derive({name: torch.rand(cell.shape) for name, cell in space.cells.items()})
    shapes = []
    with torch.device("meta"):
        net = build_network(genotype, channels=16, cells=1, classes=10).eval()
        net.get_submodule("last").register_forward_hook(lambda m, i, o: shapes.append(o.shape))
        net(torch.empty(1, 3, *[224 if space is MOBILENET else 32] * 2))
    assert shapes == [(1, 1280, side, side)]


def test_size_of_a_network_counted_by_hand() -> None:
    """All 3x3 with expansion 3 where width changes, everything else left out, at C = 16."""
    text = ", ".join("skip_connect" if i % 4 else "mb_conv_3x3_e3" for i in range(21))
    net = build_network(f"mobilenet({text})", channels=16, cells=1, classes=1000)
    widths = [16, 24, 40, 80, 96, 192, 320]

    def layer(inputs: int, outputs: int, expansion: int) -> int:
        hidden = expansion * inputs
        convolutions = inputs * hidden + 9 * hidden + hidden * outputs
        return convolutions + 2 * (hidden + hidden + outputs)

    expected = 27 * 32 + 2 * 32 + layer(32, 16, 1)
    expected += sum(layer(a, b, 3) for a, b in itertools.pairwise(widths))
    expected += 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mobilenet(mb_conv_3x3_e3)", r"must be mobilenet\(...\) with 21 layers"),
        ("mobilenet(" + ", ".join(["conv"] * 21) + ")", "'conv' is not one of mb_conv_3x3_e3"),
        ("mobilenet(" + ", ".join(["skip_connect"] * 21) + ")", "leaves out a layer that changes"),
        ("mobilenet(" + ", ".join(["mb_conv_3x3_e3"] * 21), "with 21 layers"),
    ],
)
def test_malformed_text_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Genotype.parse(text)


def test_what_a_chain_cannot_have_is_refused() -> None:
    edges = MOBILENET.cells["keeping"].edges
    with pytest.raises(ValueError, match="'nor_conv_3x3' is not one of mb_conv_3x3_e3"):
        Layers(1, edges, (("nor_conv_3x3",),) * len(edges))
    with pytest.raises(ValueError, match="must have the edges of SKELETONS"):
        Space("half", "mobilenet", {"keeping": MOBILENET.cells["keeping"]})
    genotype = MOBILENET.derive({n: torch.rand(c.shape) for n, c in MOBILENET.cells.items()})
    with pytest.raises(ValueError, match="cells=2 must be 1, since a chain's"):
        build_network(genotype, channels=4, cells=2, classes=10)
