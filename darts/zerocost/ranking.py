"""How well a score ranks NAS-Bench-201's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from darts.budgets.costs import MEASURES, Sizes, count
from darts.networks.genotype import Genotype
from darts.spaces.nb201 import NB201


class Correlation(NamedTuple):
    """Rank correlations, in [-1, 1]."""

    spearman: float
    """ρ."""
    kendall: float
    """τ-b."""


def correlation(scores: Sequence[float], accuracies: Sequence[float]) -> Correlation:
    """Of two equally long lists; infinities are ranked at the ends."""
    from scipy import stats  # half a second, which no other command should take

    ranks = stats.rankdata(scores)
    rho = stats.spearmanr(ranks, accuracies).statistic
    return Correlation(float(rho), float(stats.kendalltau(ranks, accuracies).statistic))


def sizes(
    archs: Sequence[str], *, channels: int, cells: int, classes: int, shape: tuple[int, int, int]
) -> dict[str, list[float]]:
    """Parameters and multiply-adds of every cell's network.

    Args:
        archs: NAS-Bench-201 strings.
        channels: of the first cell.
        cells: a stage.
        classes: outputs.
        shape: colours, height and width of the images.

    Returns:
        "params" and "macs", one value for each cell.
    """
    of = Sizes(channels, cells, classes, shape)
    genotypes = [Genotype.parse(arch) for arch in archs]
    found = {}
    for kind in MEASURES:
        costs = count(NB201, of, kind)
        found[kind] = [costs.of(NB201, genotype) for genotype in genotypes]
    return found
