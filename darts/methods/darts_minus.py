"""DARTS-: an auxiliary skip connection on every edge, faded out during the search.

Chu, Wang, Zhang, Lu, Wei, Yan: DARTS-: Robustly Stepping out of Performance Collapse Without
Indicators, ICLR 2021 (Eq. 2, Algorithm 1). Read beside Meituan-AutoML/DARTS- (src/search): the
auxiliary operation is the identity, a factorised reduction where the stride is 2; its weight falls
from 1 in equal steps of 1/epochs, so that it is 1/50 in the last of 50. Otherwise DARTS.
"""

from __future__ import annotations

from typing import Any

import torch

from darts.methods.base import Method, register
from darts.supernet import Supernet


@register("darts-minus", "DARTS with an auxiliary skip connection that fades out")
class DARTSMinus(Method):
    """Adds to the supernet."""

    needs_cells = True

    steady = True

    def supernet_options(self) -> dict[str, Any]:
        """Every edge has the auxiliary skip connection."""
        return super().supernet_options() | {"auxiliary_skip": True}

    def auxiliary_weight(self) -> float:
        """Weight of the auxiliary skip connection in the current epoch; 0 after the last."""
        return max(0.0, 1 - self.epoch / self.config.epochs)

    def prepare(self, net: Supernet) -> None:
        """Set the epoch's weight."""
        super().prepare(net)
        assert isinstance(net.auxiliary_weight, torch.Tensor)
        net.auxiliary_weight.fill_(self.auxiliary_weight())
