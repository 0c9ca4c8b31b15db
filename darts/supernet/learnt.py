"""The weights of a supernet's operations, of which several edges lie in one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from darts.supernet.network import Supernet


class LearntOperations:
    """Operations with weights, each of one cell and one edge: ``count`` of them, in a fixed order.

    Skip connections of stride 2 are not among them. Everything stays on the device and happens in
    place, so that a recorded step may use it.

    Args:
        net: whose operations.
    """

    def __init__(self, net: Supernet) -> None:
        parts = [part for cell in net.search_cells().values() for part in cell.learnt()]
        self._parts = [(edges, own) for name, edges, own in parts if name != "skip_connect" and own]
        self.parameters = [p for _, own in self._parts for p in own]
        self.count = sum(edges for edges, _ in self._parts)

    def agreement(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Cosine between two lists of gradients of ``parameters``, one for each operation, [count].

        It is taken over a weight's first dimension, the output channels, and averaged over the
        others, then over the operation's weights; a zero gradient has 0.
        """
        found, place = [], 0
        for edges, own in self._parts:
            here = slice(place, place := place + len(own))
            pairs = zip(first[here], second[here], strict=True)
            each = [F.cosine_similarity(_rows(a, edges), _rows(b, edges), dim=1) for a, b in pairs]
            found.append(torch.stack([e.reshape(edges, -1).mean(1) for e in each]).mean(0))
        return torch.cat(found)

    def copy_gradients(self, to: Sequence[Tensor]) -> None:
        """Copy ``.grad`` of ``parameters``."""
        for p, target in zip(self.parameters, to, strict=True):
            assert p.grad is not None
            target.copy_(p.grad)

    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply ``.grad`` of each operation's weights by its one of ``factors``, [count]."""
        for p, factor in zip(self.parameters, self._spread(factors), strict=True):
            assert p.grad is not None
            _rows(p.grad, len(factor)).mul_(factor)

    @contextmanager
    def only(self, learns: Tensor) -> Iterator[None]:
        """What is done inside moves the operations where ``learns``, bool [count], and no other."""
        before = [p.detach().clone() for p in self.parameters]
        yield
        with torch.no_grad():
            for p, old, mask in zip(self.parameters, before, self._spread(learns), strict=True):
                own = _rows(p, len(mask))
                own.copy_(torch.where(mask, own, _rows(old, len(mask))))

    def _spread(self, values: Tensor) -> Iterator[Tensor]:
        """One of ``values``, [count], for each operation: [edges, 1, ...] for each parameter."""
        split = values.split([edges for edges, _ in self._parts])
        for (_, own), part in zip(self._parts, split, strict=True):
            for p in own:
                yield part.view(-1, *[1] * max(1, p.dim()))


def _rows(tensor: Tensor, edges: int) -> Tensor:
    """[edges · n, ...] seen as [edges, n, ...]."""
    return tensor.view(edges, -1, *tensor.shape[1:])
