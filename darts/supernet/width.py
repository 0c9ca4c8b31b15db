"""A layer of any width in the supernet: one block of the largest, its channels masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from darts.networks.table import LayerPlace
from darts.networks.widths import block
from darts.spaces.table import Cell
from darts.supernet.branches import Views
from darts.supernet.plan import Live


class SearchWidth(nn.Module):
    """One layer of the supernet: out = (Σ_k β_k·m_k)·block(x), m_k being 1 on the first channels.

    As FBNetV2's channel masks in NATS-Bench's code ("mask_gumbel"), for any β: all widths share one
    kernel. The first layer's mask is the stem's too. Batch norms are affine, those of AutoDL's
    search are not. ``drop_path`` is without effect, as no path can be left out.

    Args:
        name: the cell type.
        table: its layers.
        place: of this one, at its largest.
    """

    masks: Tensor

    def __init__(self, name: str, table: Cell, place: LayerPlace) -> None:
        super().__init__()
        self.name = name
        self.row = place.number
        self.place = place
        self.drop_path = 0.0
        self.block = block(place)
        widths = torch.tensor([int(width) for width in table.candidates[self.row]])
        channels = widths * place.outputs // widths.max()
        mask = torch.arange(place.outputs) < channels[:, None]
        self.register_buffer("masks", mask.float(), persistent=False)

    def forward(
        self,
        inputs: Sequence[Tensor],
        weights: Mapping[str, Tensor],
        live: Mapping[str, Live] | None,
        shared: object,
    ) -> Tensor:
        """The map that leaves, of the one that enters.

        All is computed, whatever is ``live``, and nothing is ``shared``: no other layer reads this
        one's row of β.
        """
        (x,) = inputs
        beta = weights[self.name][self.row]
        mask = (beta[:, None] * self.masks.to(beta.dtype)).sum(0)[:, None, None]
        y: Tensor = self.block(x * mask.to(x.dtype) if self.row == 0 else x)
        return y * mask.to(y.dtype)

    def learnt(self) -> Iterator[tuple[str, int, list[nn.Parameter]]]:
        """See `Source.learnt`: one block, whatever the width."""
        yield type(self.block).__name__, 1, list(self.block.parameters())

    def views(self, of: Callable[[Tensor], Tensor]) -> Views:
        """Nothing: the layer is a conventional one, with the names of one."""
        return {}
