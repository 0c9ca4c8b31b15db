"""SETN: weights trained by uniform draws, α by all operations at once, and the likeliest compared.

Dong, Yang: One-Shot Neural Architecture Search via Self-Evaluated Template Network, ICCV 2019.
Read: AutoDL-Projects' search (exps/NATS-algos/search-cell.py with xautodl/models/cell_searchs/
generic_model.py, 100 epochs). The weight step trains one architecture drawn uniformly, the arch
step is DARTS's; at the end the 100 architectures that are likeliest by softmax(α) are compared on
images of the other half, 512 of them here as for the other methods of its kind.

The public code has no search in the DARTS spaces. Assumed there: the likeliest choices of an
operation on every edge, `none` left out, each of which keeps the two edges a node whose operation
is likeliest; several may be one architecture, which is compared once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from darts.methods.base import Weights, one_hot, register
from darts.methods.random_search import BestOfDraws
from darts.spaces import Space


def likeliest(rows: Sequence[Tensor], count: int) -> Tensor:
    """The `count` choices of one entry a row whose product is greatest, [count, rows], best first.

    `rows`: [n] logarithms each, of any n; choices with one of -inf are left out.
    """
    sums = rows[0].new_zeros(1)
    picks = torch.zeros(1, 0, dtype=torch.int64, device=sums.device)
    for row in rows:
        both = (sums[:, None] + row).flatten()
        sums, place = both.topk(min(count, int(both.isfinite().sum())))
        picks = torch.cat([picks[place // len(row)], (place % len(row))[:, None]], 1)
    return picks


@register("setn", "uniform draws train the weights, DARTS's step α; the likeliest are compared")
class SETN(BestOfDraws):
    """Adds α to random search."""

    settles_on_one = True
    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """Twice as long as DARTS."""
        return super().published(space) | {"epochs": 100}

    def candidates(self) -> list[Weights]:
        """The likeliest."""
        shares = self.scores()
        logs = [b.log().masked_fill(self.barred[c], -torch.inf) for c, b in shares.items()]
        rows = [row for table in logs for row in table]
        found = {}
        for pick in likeliest(rows, self.options.samples):
            split = zip(shares.items(), pick.split([len(b) for b in shares.values()]), strict=True)
            chosen = {cell: one_hot(own, beta) * beta for (cell, beta), own in split}
            genotype = self.space.derive(chosen)
            found[str(genotype)] = self.space.discrete(genotype)
        return [{c: b.to(self.device) for c, b in weights.items()} for weights in found.values()]
