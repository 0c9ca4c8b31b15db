"""Perturbation-based selection: operations are selected by how much the supernet misses them.

The part that DARTS+PT, SDARTS-RS+PT and SGAS+PT share (not a method by itself). Wang, Cheng, Chen,
Tang, Hsieh: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021 (Algorithm 1,
section 4). Read beside ruocwang/darts-pt (nasbench201/projection.py, sota/cnn/projection.py): after
the search an open edge is drawn at random, each of its operations is left out in turn, and the edge
gets the one without which validation accuracy is lowest; then 5 epochs of tuning at a tenth of the
learning rate, and the next edge. In the DARTS spaces each node then loses, one after another, the
edge that it misses least until two are left. Accuracy is measured with batch statistics, as there.
The released code makes the last decision before the last epoch of tuning, this after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from darts.config import setting
from darts.methods.base import Trainer, Weights
from darts.methods.fixing import REMOVED, Fixing
from darts.networks.genotype import KEPT_EDGES
from darts.spaces import Space


class Perturbation(Fixing):
    """Measures operations and edges by what their removal costs; combines with other methods."""

    @dataclass(frozen=True)
    class Options(Fixing.Options):
        """When decisions fall, and by what."""

        interval: int = setting(5, "epochs of tuning between two decisions", at_least=1)
        criterion: Literal["accuracy", "loss"] = setting("accuracy", "what a removal changes")

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released search."""
        own = {"weights.nesterov": False, "weights.weight_decay": 3e-4, "arch.first": True}
        return super().published(space) | own | ({"epochs": 100} if space.stacked else {})

    def cost(self, trainer: Trainer, weights: Weights) -> float:
        """How bad the supernet is with these β."""
        loss, accuracy = trainer.evaluate(weights)
        return loss if self.options.criterion == "loss" else -accuracy

    def without(self, cell: str, edge: int, columns: slice | int) -> Weights:
        """β as it is but for some entries of one edge, which are zero."""
        with torch.no_grad():
            weights = {name: beta.clone() for name, beta in self.probabilities().items()}
        weights[cell][edge, columns] = 0.0
        return weights

    def missed_operation(self, trainer: Trainer, cell: str, edge: int) -> int:
        """The operation whose removal costs most; the first of equals."""
        count = self.space.cells[cell].shape[1]
        costs = [self.cost(trainer, self.without(cell, edge, k)) for k in range(count)]
        return costs.index(max(costs))

    def thin_out(self, trainer: Trainer, cell: str, node: int) -> None:
        """Remove the node's least missed edges until it has as many as a genotype keeps."""
        edges = list(self.space.cells[cell].incoming(node))
        while len(edges) > KEPT_EDGES:
            costs = [self.cost(trainer, self.without(cell, edge, slice(None))) for edge in edges]
            self.fixed[cell][edges.pop(costs.index(min(costs)))] = REMOVED

    def draw(self, choices: list[int]) -> int:
        """One of `choices` at random."""
        place = torch.randint(len(choices), (), generator=self.generator, device=self.device)
        return choices[int(place)]

    def decide(self, trainer: Trainer) -> None:
        """Settle one edge of each cell, or one node where all edges are settled."""
        for cell, table in self.space.cells.items():
            if edges := self.undecided(cell):
                edge = self.draw(edges)
                self.fixed[cell][edge] = self.missed_operation(trainer, cell, edge)
            elif self.space.leaves_edges_out:
                crowded = [n for n in table.nodes if len(self.living(cell, n)) > KEPT_EDGES]
                self.thin_out(trainer, cell, self.draw(crowded))

    def living(self, cell: str, node: int) -> list[int]:
        """The node's edges that have not been removed."""
        edges = self.space.cells[cell].incoming(node)
        return [edge for edge in edges if self.fixed[cell][edge] != REMOVED]

    @property
    def needed(self) -> int:
        """Decisions that settle everything."""
        table = max(self.space.cells.values(), key=lambda cell: len(cell.edges))
        crowded = [n for n in table.nodes if len(table.incoming(n)) > KEPT_EDGES]
        return len(table.edges) + (len(crowded) if self.space.leaves_edges_out else 0)


class PerturbationSelection(Perturbation):
    """Settles everything after the search, with tuning in between."""

    @property
    def epochs(self) -> int:
        """The search, then the tuning."""
        return self.config.epochs + self.options.interval * (self.needed - 1)

    def learning_rate(self, epoch: float) -> float:
        """A tenth of the first rate while tuning."""
        if epoch >= self.config.epochs:
            return self.config.weights.learning_rate / 10
        return super().learning_rate(epoch)

    def end_epoch(self, trainer: Trainer) -> None:
        """Decide where a decision is due."""
        super().end_epoch(trainer)
        since = self.epoch - (self.config.epochs - 1)
        if since >= 0 and since % self.options.interval == 0:
            self.decide(trainer)
