"""A network of stem, layers in turn and head, which the skeletons of chains fill."""

from __future__ import annotations

from torch import Tensor, nn

from darts.networks.table import Call, with_maps


class InTurn(nn.Module):
    """Subclasses make ``stem``, the layers in ``cells``, ``last`` and ``classifier``."""

    stem: nn.Module
    cells: nn.ModuleList
    last: nn.Module
    classifier: nn.Linear

    def features(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Pooled features, [batch, channels]."""
        x: Tensor = self.stem(images)
        for layer in self.cells:
            x = call(layer, (x,))
        y: Tensor = self.last(x)
        return y.mean((2, 3))

    def forward(self, images: Tensor, call: Call = with_maps) -> Tensor:
        """Logits, [batch, classes], of ``images``, [batch, colours, height, width]."""
        logits: Tensor = self.classifier(self.features(images, call))
        return logits
