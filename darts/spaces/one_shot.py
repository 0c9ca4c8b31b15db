"""NAS-Bench-1Shot1's spaces: cells of NAS-Bench-101 whose nodes read so many others each.

Zela, Siems, Hutter: NAS-Bench-1Shot1: Benchmarking and Dissecting One-shot Neural Architecture
Search, ICLR 2020. How many is the table of the authors' code (automl/nasbench-1shot1,
nasbench_analysis/search_spaces).
"""

from darts.networks.module_graph import MOST_EDGES, OPERATIONS
from darts.networks.nb101 import NODES, reads
from darts.spaces.table import Cell, NodeOperations, Sources, Space


def one_shot(name: str, kept: tuple[int, ...]) -> Space:
    """The space whose nodes 1, 2, ... and output read so many of those before them.

    What reads all of them has no choice, and no α. Raises ValueError where a cell would read more
    than there is, or have more edges than the benchmark's.
    """
    last = len(kept)
    for v, count in enumerate(kept, start=1):
        if not 1 <= count <= v:
            raise ValueError(f"kept={kept}: vertex {v} must read 1 to {v} of those before it")
    if sum(kept) > MOST_EDGES:
        raise ValueError(f"kept={kept} must add up to at most {MOST_EDGES} edges")
    nodes = tuple((v - 1, v) for v in range(1, last))
    cells: dict[str, Cell] = {NODES: NodeOperations(1, nodes, (OPERATIONS,) * len(nodes))}
    for v, count in enumerate(kept, start=1):
        if count < v:
            row = tuple(map(str, range(v)))
            cells[reads(v, last)] = Sources(1, ((v - 1, v),), (row,), kept=count)
    return Space(name, "nb101", cells)


ONE_SHOT_1 = one_shot("1shot1-1", (1, 2, 2, 2, 2))
ONE_SHOT_2 = one_shot("1shot1-2", (1, 1, 2, 2, 3))
ONE_SHOT_3 = one_shot("1shot1-3", (1, 1, 1, 2, 2, 2))
