"""TransNAS-Bench-101's cell-level space (Duan et al., CVPR 2021): 4,096 cells of four nodes."""

from darts.networks.transnas import EDGES, OPERATIONS
from darts.spaces.table import Cell, Space

TRANSNAS = Space(
    "transnas", "transnas", {"cell": Cell(1, EDGES, candidates=(OPERATIONS,) * len(EDGES))}
)
