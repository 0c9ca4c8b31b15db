"""GAEA+PC-DARTS: exponentiated gradient on β, partial channels.

Li, Khodak, Balcan, Talwalkar (ICLR 2021) on Xu et al. (ICLR 2020). Read beside liamcli/gaea_release
(configs/cnn/mode/search_pcdarts.yaml, method_eedarts_space_pcdarts.yaml): PC-DARTS's training,
learning rate 0.1 for β. The released code moves the edges' weights by exponentiated gradient too,
each node's weights summing to one; here they keep PC-DARTS's softmax and Adam at that rate.
"""

from typing import Any

from darts.methods.base import register
from darts.methods.gaea import ExponentiatedGradient
from darts.methods.pc_darts import PartialChannels
from darts.spaces import Space


@register("gaea-pc", "GAEA with PC-DARTS's partial channels")
class GAEAPC(ExponentiatedGradient, PartialChannels):
    """Both parts; the rate of β is GAEA's, the α-free warm-up is left out as in its code."""

    steady = True

    @classmethod
    def published(cls, space: Space) -> dict[str, Any]:
        """The released configuration."""
        return super().published(space) | {"arch.warmup": 0}
