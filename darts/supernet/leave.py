"""What operations that leave a node start from: its map, the ReLU and the 3x3 average of it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from snsoftmax.rectify_average import HandedGradients, rectify_average


class Departure(NamedTuple):
    """A node's map as its outgoing operations read it.

    ``rectified``: the ReLU, one alias for each reader, so that their gradients arrive apart and
    are added in the pass that applies the ReLU's. ``averaged``: the 3x3 average of stride 1, or
    None. ``map`` and ``averaged`` take gradients through autograd and from readers' hands; where
    nothing is computed, through autograd alone.
    """

    map: Tensor
    rectified: tuple[Tensor, ...]
    averaged: Tensor | None
    map_gradients: HandedGradients | None = None
    averaged_gradients: HandedGradients | None = None


def leave(x: Tensor, readers: int, average: bool) -> Departure:
    """``x`` with its ReLU for ``readers`` operations and its average if ``average``.

    One pass each way.
    """
    handed = HandedGradients(), HandedGradients()
    map, averaged, rectified = rectify_average(x, readers, average, *handed)
    return Departure(map, tuple(rectified), averaged if average else None, *handed)
