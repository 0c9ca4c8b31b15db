"""NAS-Bench-201 (Dong & Yang, ICLR 2020): four nodes, six edges, five operations."""

from darts.spaces.table import Cell, Space

CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def _space(name: str, operations: tuple[str, ...]) -> Space:
    cell = Cell(inputs=1, edges=EDGES, candidates=(operations,) * len(EDGES))
    return Space(name=name, skeleton="nb201", cells={"cell": cell})


NB201 = _space("nb201", CANDIDATES)
NB201_WITHOUT_NONE = _space("nb201-without-none", CANDIDATES[1:])
