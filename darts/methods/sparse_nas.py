"""SparseNAS: α mixes operations without softmax, made sparse by a sparse group lasso.

Wu, Liu, Huang, Zhang, Van Gool: Neural Architecture Search as Sparse Supernet, AAAI 2021
(arXiv:2007.16112). No code was released, and only the abstract could be read here: a "continuous
architecture representation with a mixture of sparsity constraints", optimised by "a hierarchical
accelerated proximal gradient algorithm within a bi-level optimization framework". Assumed from it:
a node is Σ α·o(x) with α free and not normalised, starting at 1/M with the usual noise; the penalty
is λ·Σ|α| + μ·Σ_node √size·‖α_node‖, a group being everything that enters a node; after Adam's step
(whose momentum is the acceleration, with no weight decay) comes the proximal step of both norms,
operations first, then groups. λ and μ are this library's. The paper keeps whatever mixture is left;
an architecture here has one operation an edge, and the largest |α| is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darts.config import setting
from darts.methods.base import Method, Weights, register
from darts.spaces import Space


def sparse_group_proximal(row: Tensor, lasso: float, group: float) -> Tensor:
    """argmin_x |x - row|²/2 + lasso·|x|₁ + group·√n·|x|₂ over all n elements as one group.

    Soft thresholding, then the group's shrinkage: the exact proximal operator of the sum.
    """
    soft = row.sign() * (row.abs() - lasso).clamp(min=0)
    norm = soft.norm()
    shrunk: Tensor = soft * (1 - group * row.numel() ** 0.5 / norm.clamp(min=1e-12)).clamp(min=0)
    return shrunk


@register("sparse-nas", "unnormalised α under a sparse group lasso")
class SparseNAS(Method):
    """Replaces softmax, and follows each update by a proximal step."""

    steady = True

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The penalty."""

        lasso: float = setting(0.1, "λ, weight of |α| of each operation", at_least=0)
        group: float = setting(0.05, "μ, weight of ‖α‖ of each node", at_least=0)

    options: Options

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The penalty replaces weight decay."""
        return super().published(space) | {"arch.weight_decay": 0.0}

    def initial_logits(self) -> Weights:
        """1/M with noise."""
        drawn = super().initial_logits()
        return {c: (a.detach() + 1 / a.shape[-1]).requires_grad_() for c, a in drawn.items()}

    def normalize(self, cell: str, logits: Tensor) -> Tensor:
        """α itself."""
        return logits

    def arch_update(self, gradients: list[Tensor]) -> None:
        """Adam's step, then the proximal step of length η for each node's group."""
        super().arch_update(gradients)
        rate = self.config.arch.learning_rate
        lasso, group = rate * self.options.lasso, rate * self.options.group
        with torch.no_grad():
            for name, table in self.space.cells.items():
                for node in table.nodes:
                    rows = [self.logits[name][edge] for edge in table.incoming(node)]
                    moved = sparse_group_proximal(torch.stack(rows), lasso, group)
                    for row, value in zip(rows, moved, strict=True):
                        row.copy_(value)

    def scores(self) -> Weights:
        """|α|."""
        return {cell: alpha.detach().abs() for cell, alpha in self.logits.items()}
