"""PC-DARTS: a part of the channels goes through the operations; edges have weights of their own.

Xu, Xie, Zhang, Chen, Qi, Tian, Xiong: PC-DARTS: Partial Channel Connections for Memory-Efficient
Architecture Search, ICLR 2020 (Eqs 2-6). Read beside yuhuixu1993/PC-DARTS (train_search.py,
model_search.py): K = 4, batch 256, learning rate 0.1 → 0, α's 6e-4, 15 epochs before α moves; the
first C/K channels are used and channels are shuffled after each node. The DARTS spaces' cells
select edges by the product of both weights, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import SearchConfig, setting
from darts.methods.base import Method, Weights, register
from darts.spaces import Space
from snsoftmax import sn_softmax


class PartialChannels(Method):
    """Partial channels and edge normalisation; combines with other methods."""

    needs_cells = True

    @dataclass(frozen=True)
    class Options(Method.Options):
        """PC-DARTS's part."""

        partial: int = setting(4, "K: one in K channels goes through the operations", at_least=1)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released configuration."""
        return super().published(space) | {
            "data.batch_size": 256,
            "weights.learning_rate": 0.1,
            "weights.final_learning_rate": 0.0,
            "weights.weight_decay": 3e-4,
            "weights.nesterov": False,
            "arch.learning_rate": 6e-4,
            "arch.first": True,
            "arch.warmup": 15,
        }

    def __init__(self, space: Space, config: SearchConfig) -> None:
        source = torch.Generator().manual_seed(config.seed + 1)
        self.edge_logits = {
            name: (config.arch.initial_scale * torch.randn(len(cell.edges), generator=source))
            .to(config.device)
            .requires_grad_()
            for name, cell in space.cells.items()
        }
        super().__init__(space, config)

    def parameters(self) -> list[Tensor]:
        """α, then the edges' own parameters."""
        return super().parameters() + list(self.edge_logits.values())

    def supernet_options(self) -> dict[str, Any]:
        """One in K channels goes through the operations."""
        return super().supernet_options() | {"partial": self.options.partial}

    def edge_weights(self, cell: str) -> Tensor:
        """Softmax over the edges that enter a node, [edges] (Eq. 5)."""
        logits = self.edge_logits[cell]
        shares: dict[int, Tensor] = {}
        for node in self.space.cells[cell].nodes:
            edges = self.space.cells[cell].incoming(node)
            weights = sn_softmax(torch.stack([logits[e] for e in edges]), 1.0, scale=None)
            shares.update(zip(edges, weights.unbind(), strict=True))
        return torch.stack([shares[e] for e in range(len(logits))])

    def weights(self) -> Weights:
        """Each edge's β times the edge's weight (Eq. 6)."""
        return {c: beta * self.edge_weights(c)[:, None] for c, beta in super().weights().items()}

    def scores(self) -> Weights:
        """The same product, without sampling."""
        with torch.no_grad():
            return {c: b * self.edge_weights(c)[:, None] for c, b in super().scores().items()}


@register("pc-darts", "partial channels and edge normalisation")
class PCDARTS(PartialChannels):
    """DARTS with partial channels."""

    steady = True
