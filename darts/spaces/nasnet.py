"""The DARTS space (Liu et al., ICLR 2019) and its subspaces S1-S4 (Zela et al., ICLR 2020).

Two input nodes, four inner nodes each connected to all before it, 14 edges, a normal and a
reduction cell. The tables of S1-S4 are those of the authors' code (automl/RobustDARTS).
"""

from collections.abc import Sequence

from darts.spaces.table import Cell, Space

CANDIDATES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
EDGES = tuple((source, target) for target in range(2, 6) for source in range(target))

_SHORT = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}
_S1_NORMAL = (
    "skip dil3, skip dil5,"
    "skip dil5, skip sep3, skip dil3,"
    "max skip, skip sep3, skip sep3, skip dil3,"
    "skip sep3, max skip, skip dil3, dil3 dil5, dil3 dil5"
)
_S1_REDUCE = (
    "max avg, max dil3,"
    "max avg, max avg, skip dil5,"
    "max avg, max sep3, skip dil3, skip dil5,"
    "max avg, max avg, skip dil5, skip dil5, skip dil5"
)


def _space(
    name: str,
    normal: Sequence[tuple[str, ...]],
    reduce: Sequence[tuple[str, ...]],
    many_candidates: bool = False,
) -> Space:
    def cell(candidates: Sequence[tuple[str, ...]], reduction: bool) -> Cell:
        return Cell(2, EDGES, tuple(candidates), reduction, normalize_pools=True, concatenate=True)

    cells = {"normal": cell(normal, False), "reduce": cell(reduce, True)}
    return Space(name, "darts", cells, many_candidates)


def _uniform(name: str, operations: tuple[str, ...], many_candidates: bool = False) -> Space:
    rows = (operations,) * len(EDGES)
    return _space(name, rows, rows, many_candidates)


def _table(text: str) -> list[tuple[str, ...]]:
    return [tuple(_SHORT[word] for word in row.split()) for row in text.split(",")]


DARTS = _uniform("darts", CANDIDATES, many_candidates=True)
DARTS_WITHOUT_NONE = _uniform("darts-without-none", CANDIDATES[1:], many_candidates=True)
S1 = _space("s1", _table(_S1_NORMAL), _table(_S1_REDUCE))
S2 = _uniform("s2", ("skip_connect", "sep_conv_3x3"))
S3 = _uniform("s3", ("none", "skip_connect", "sep_conv_3x3"))
S4 = _uniform("s4", ("noise", "sep_conv_3x3"))
