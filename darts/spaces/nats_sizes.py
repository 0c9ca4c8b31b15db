"""NATS-Bench's size space (Dong et al., TPAMI 2021): the widths of five layers, 8 to 64 each."""

from darts.networks.widths import EDGES, WIDTHS
from darts.spaces.table import LayerWidths, Space

NATS_SIZES = Space(
    "nats-sizes", "nats-sizes", {"widths": LayerWidths(1, EDGES, (WIDTHS,) * len(EDGES))}
)
