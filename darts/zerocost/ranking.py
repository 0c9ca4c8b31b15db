"""How well a score ranks NAS-Bench-201's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from darts.networks.network import build_network
from darts.networks.size import multiply_adds, parameters


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
    """Parameters and multiply-adds of every cell's network, from three networks.

    Both are sums over the edges, and convolutions alone have any.

    Args:
        archs: NAS-Bench-201 strings.
        channels: of the first cell.
        cells: a stage.
        classes: outputs.
        shape: colours, height and width of the images.

    Returns:
        "params" and "macs", one value for each cell.
    """
    kinds = ("none", "nor_conv_1x1", "nor_conv_3x3")
    rest = "+|none~0|none~1|+|none~0|none~1|none~2|"
    measured = []
    with torch.device("meta"):
        image = torch.empty(1, *shape)
        for kind in kinds:
            net = build_network(
                f"|{kind}~0|{rest}",
                channels=channels,
                cells=cells,
                classes=classes,
                colours=shape[0],
            )
            measured.append((parameters(net, image), multiply_adds(net, image)))
    return {
        name: [
            measured[0][which]
            + sum(
                arch.count(kind) * (measured[place][which] - measured[0][which])
                for place, kind in enumerate(kinds)
            )
            for arch in archs
        ]
        for which, name in enumerate(("params", "macs"))
    }
