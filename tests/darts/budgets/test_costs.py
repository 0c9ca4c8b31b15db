"""The sum of an architecture's costs is the count of the network that is built of it."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from darts.budgets.costs import Sizes, count
from darts.data import ImageSet
from darts.networks.operations import OPERATIONS
from darts.spaces import SPACES, Cell, Space
from darts.training.evaluate import cost
from darts.training.evaluation_config import configure_evaluation


def pictures(shape: tuple[int, int, int], classes: int) -> ImageSet:
    images = torch.zeros(classes, *shape, dtype=torch.uint8)
    labels = torch.arange(classes)
    return ImageSet("none", images, labels, images, labels, False)


@pytest.fixture
def own() -> Iterator[Space]:
    """A user's space on the DARTS skeleton with an operation of the user's."""
    OPERATIONS["gated"] = lambda channels, stride, affine, track: nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 1, stride), nn.GLU(1), nn.Conv2d(channels, channels, 1)
    )
    edges = tuple((source, target) for target in range(2, 6) for source in range(target))
    rows = (("none", "gated", "skip_connect"),) * len(edges)
    yield Space(
        "own",
        "darts",
        {
            "normal": Cell(2, edges, rows, concatenate=True),
            "reduce": Cell(2, edges, rows, reduction=True, concatenate=True),
        },
    )
    del OPERATIONS["gated"]


def check(space: Space, shape: tuple[int, int, int], classes: int) -> None:
    cells = 1 if space.around.chain else 2 if space.stacked else 5
    sizes = Sizes(8, cells, classes, shape)
    costs = {kind: count(space, sizes, kind) for kind in ("params", "macs")}
    source = torch.Generator().manual_seed(0)
    for _ in range(4):
        genotype = space.derive(
            {name: torch.rand(cell.shape, generator=source) for name, cell in space.cells.items()}
        )
        config = configure_evaluation(
            genotype=str(genotype), network={"channels": 8, "cells": cells}
        )
        built = cost(config, pictures(shape, classes))
        assert (costs["params"].of(space, genotype), costs["macs"].of(space, genotype)) == built


@pytest.mark.parametrize("name", [n for n, s in SPACES.items() if s.around.additive])
def test_sum_is_what_evaluate_counts(name: str) -> None:
    check(SPACES[name], (3, 32, 32), 10)


@pytest.mark.parametrize("name", ["nb201", "s1"])
def test_odd_rectangles_and_other_colours(name: str) -> None:
    check(SPACES[name], (5, 27, 35), 3)


def test_operations_of_a_users_own(own: Space) -> None:
    check(own, (3, 16, 16), 4)
