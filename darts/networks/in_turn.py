"""A network of stem, cells or layers in turn and head, which several skeletons fill."""

from __future__ import annotations

from torch import Tensor, nn

from darts.networks.operations import ResidualBlock
from darts.networks.table import Call, with_maps


class InTurn(nn.Module):
    """Subclasses make ``stem``, ``cells``, ``last`` and ``classifier``.

    A residual block or a pooling among the cells is no place of the skeleton, and called as it is.
    """

    stem: nn.Module
    cells: nn.ModuleList
    last: nn.Module
    classifier: nn.Linear

    def features(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Pooled features, [batch, channels]."""
        x: Tensor = self.stem(images)
        for cell in self.cells:
            between = isinstance(cell, (ResidualBlock, nn.MaxPool2d))
            x = cell(x) if between else call(cell, (x,))
        y: Tensor = self.last(x)
        return y.mean((2, 3))

    def forward(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Logits, [batch, classes], of ``images``, [batch, colours, height, width]."""
        logits: Tensor = self.classifier(self.features(images, call))
        return logits
