"""Random search with weight sharing, and a random architecture: the controls.

Li, Talwalkar: Random Search and Reproducibility for Neural Architecture Search, UAI 2019. Each
weight step trains one architecture drawn uniformly; afterwards `samples` architectures are drawn
and the one with the highest supernet accuracy is taken (100 on 512 images, as in AutoDL-Projects'
search-cell.py). With `--samples 1 --epochs 1` it is one architecture drawn uniformly, whose mean
over seeds is the space's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Method, Step, Trainer, Weights, register
from darts.networks.genotype import KEPT_EDGES, Genotype
from darts.spaces import Space


class BestOfDraws(Method):
    """Each weight step trains one architecture; the best of several is taken at the end.

    The base of random search and its kin, which differ in how they draw.
    """

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The final selection."""

        samples: int = setting(100, "architectures compared at the end", at_least=1)
        images: int = setting(512, "images that they are compared on", at_least=1)

    options: Options

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        few, cells = self.space.leaves_edges_out, self.space.cells.items()
        rows = {c: [[few and o == "none" for o in row] for row in t.candidates] for c, t in cells}
        crowds = {c: [t.incoming(n) for n in t.nodes] if few else [] for c, t in cells}
        self.barred = {c: torch.tensor(row, device=self.device) for c, row in rows.items()}
        self.crowds = {
            c: [torch.tensor(edges, device=self.device) for edges in nodes]
            for c, nodes in crowds.items()
        }

    def noise(self, *shape: int) -> Tensor:
        """Uniform, whose order is a random one."""
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def draw(self) -> Weights:
        """One-hot β of a uniformly drawn architecture; nothing is decided on the host."""
        drawn = {}
        for cell, barred in self.barred.items():
            rank = self.noise(*barred.shape).masked_fill(barred, -1.0).neg().argsort(-1).argsort(-1)
            drawn[cell] = (rank < self.space.cells[cell].kept).to(self.logits[cell])
            for edges in self.crowds[cell]:
                rank = self.noise(len(edges)).argsort().argsort()
                drawn[cell].index_copy_(0, edges, drawn[cell][edges] * (rank < KEPT_EDGES)[:, None])
        return drawn

    def training_weights(self, step: Step) -> Weights:
        """A new architecture for every step."""
        return self.draw()

    def candidates(self) -> list[Weights]:
        """One-hot β of the architectures that are compared at the end."""
        return [self.draw() for _ in range(self.options.samples)]

    def select(self, trainer: Trainer) -> Genotype:
        """The best of several architectures, within a budget if there is one, by accuracy."""
        drawn = self.candidates()
        drawn = [d for d in drawn if trainer.allows(self.space.derive(d))] or drawn
        if len(drawn) == 1:
            return self.space.derive(drawn[0])
        few = self.options.images
        accuracies = [trainer.evaluate(weights, images=few)[1] for weights in drawn]
        return self.space.derive(drawn[accuracies.index(max(accuracies))])


@register("random", "random search with weight sharing")
class RandomSearch(BestOfDraws):
    """Samples architectures uniformly; α plays no part."""

    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """Twice as long as DARTS in AutoDL-Projects; α stays at 0."""
        return super().published(space) | {"epochs": 100, "arch.initial_scale": 0.0}

    @property
    def alpha_moves(self) -> bool:
        """Never."""
        return False
