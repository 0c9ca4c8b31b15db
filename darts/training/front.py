"""Searches under several budgets, for a front of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from darts.budgets.budget import costs_of
from darts.budgets.within import cheapest, dearest
from darts.config import BudgetConfig, ConfigError, SearchConfig, as_dict, build
from darts.data import ImageSet
from darts.results.front import Front, Point
from darts.spaces import get_space
from darts.training.evaluation_config import bounded_sizes
from darts.training.search import Callback, Result, Search


def limits(config: SearchConfig, kind: str, count: int, images: ImageSet) -> list[float]:
    """Budgets in equal ratios between the smallest and the largest network of the space.

    The smallest network itself is left out, since nothing is to be searched there. A bound that
    the configuration has already takes the largest network's place.

    Args:
        config: with the space, and the table where latency is bounded.
        kind: "params", "macs" or "latency".
        count: how many.
        images: that the network is for.

    Raises:
        UserError: see `costs_of`; or the space's networks all cost the same.
    """
    space = get_space(config.space)
    sizes = bounded_sizes(space, config.budget, images.classes, images.shape)
    costs = costs_of(kind, config.budget, space, sizes)
    low, high = (costs.of(space, extreme(space, costs)) for extreme in (cheapest, dearest))
    high = min(high, getattr(config.budget, kind) or high)
    if not low < high:
        raise ConfigError(f"the smallest network's {kind}, {low:g}, leave nothing to choose from")
    inner = [low * (high / low) ** (place / count) for place in range(1, count)]
    return [*inner, high]


def front(
    config: SearchConfig,
    kind: str,
    count: int,
    images: ImageSet,
    *,
    callbacks: Callable[[], Sequence[Callback]] = tuple,
    trained: Callable[[Search, Result], float] | None = None,
) -> Front:
    """As many searches as budgets, each with a folder of its own in `config.out`.

    What was begun there before is gone on with.

    Args:
        config: of every search.
        kind: what is bounded: "params", "macs" or "latency".
        count: how many budgets, see `limits`.
        images: to search on.
        callbacks: of each search.
        trained: accuracy in percent of what a search found; without it that of the network pruned
            out of the supernet, or the looked-up one where there is a NAS-Bench-201 table.

    Raises:
        UserError: `config.out` is empty, or see `limits` and `Search`.
        Stopped: SIGTERM or SIGINT came.
    """
    if not config.out:
        raise ConfigError("a front needs out, the folder of its searches")
    points = []
    for place, limit in enumerate(limits(config, kind, count, images), start=1):
        folder = Path(config.out) / str(place)
        budget = build(BudgetConfig, as_dict(config.budget) | {kind: limit})
        own = dataclasses.replace(config, out=str(folder), budget=budget)
        begun = (folder / "config.yaml").is_file()
        search = Search(own, images=images, callbacks=callbacks(), resume=begun)
        result = search.run()
        assert search.budget
        cost = search.budget.costs(result.genotype)[kind]
        if trained:
            accuracy = trained(search, result)
        elif result.row:
            accuracy = result.row.test["cifar10"]
        else:
            pruned = search.space.discrete(result.genotype)
            beta = {cell: b.to(config.device) for cell, b in pruned.items()}
            accuracy = search.evaluate(beta)[1]
        points.append(Point(limit, cost, accuracy, str(result.genotype), str(place)))
    return Front(HEADINGS[kind], _which(config, trained is not None), tuple(points))


HEADINGS = {"params": "parameters", "macs": "multiply-adds", "latency": "milliseconds a picture"}


def _which(config: SearchConfig, trained: bool) -> str:
    if trained:
        return "test accuracy, trained from scratch (%)"
    if config.nb201:
        return "NAS-Bench-201, CIFAR-10 test accuracy (%)"
    return "accuracy of the network pruned out of the supernet (%)"
