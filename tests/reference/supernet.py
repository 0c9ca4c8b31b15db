"""The supernet as it is usually written: one module per operation, a Python sum over modules.

Its outputs and gradients define what the fast supernet must compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from darts.networks.layers import LAYERS
from darts.networks.normalization import BatchNorm2d
from darts.networks.operations import (
    Conv2d,
    DepthwiseConv2d,
    FactorizedReduce,
    ReLU,
    ReLUConvNorm,
    make_operation,
)
from darts.networks.table import LayerPlace, NetworkSizes, Place
from darts.spaces import Cell, Space


def conventional(net: nn.Module) -> nn.Module:
    """`net` with PyTorch's convolutions, normalisation and ReLU in place of the package's own."""
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        if isinstance(module, ReLU):
            module.__class__ = nn.ReLU  # type: ignore[assignment]
        if isinstance(module, (Conv2d, DepthwiseConv2d)):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return net


def _operation(
    name: str, inputs: int, channels: int, stride: int, track: bool, norm: bool
) -> nn.Module:
    module = make_operation(name, inputs, channels, stride, False, track)
    if norm and "pool" in name:
        norm_layer = nn.BatchNorm2d(channels, affine=False, track_running_stats=track)
        return nn.Sequential(module, norm_layer)
    return module


class ReferenceCell(nn.Module):
    def __init__(self, cell: Cell, place: Place, track: bool) -> None:
        super().__init__()
        self.cell = cell
        self.name = place.name
        c = place.channels
        self.preprocess = nn.ModuleList()
        if cell.inputs == 2:
            older, old = place.inputs
            self.preprocess.append(
                FactorizedReduce(older, c, False, track)
                if place.after_reduction
                else ReLUConvNorm(older, c, 1, 1, False, track)
            )
            self.preprocess.append(ReLUConvNorm(old, c, 1, 1, False, track))
        self.edges = nn.ModuleList(
            nn.ModuleList(
                _operation(
                    name,
                    place.inputs[0] if place.stride > 1 and source == 0 else c,
                    c,
                    place.stride if place.stride > 1 and source == 0 else cell.stride(e),
                    track,
                    cell.normalize_pools,
                )
                for name in cell.candidates[e]
            )
            for e, (source, _) in enumerate(cell.edges)
        )

    def forward(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        beta = weights[self.name]
        nodes = dict(enumerate(inputs))
        if self.preprocess:
            nodes = {i: layer(nodes[i]) for i, layer in enumerate(self.preprocess)}
        for node in self.cell.nodes:
            parts = [
                w * operation(nodes[self.cell.edges[e][0]])
                for e in self.cell.incoming(node)
                for w, operation in zip(beta[e], self._operations(e), strict=True)
            ]
            nodes[node] = sum(parts[1:], parts[0])
        inner = [nodes[n] for n in self.cell.nodes]
        return torch.cat(inner, dim=1) if self.cell.concatenate else inner[-1]

    def _operations(self, edge: int) -> nn.ModuleList:
        operations = self.edges[edge]
        assert isinstance(operations, nn.ModuleList)
        return operations


class ReferenceLayer(nn.Module):
    def __init__(self, space: Space, place: LayerPlace, track: bool) -> None:
        super().__init__()
        edge = place.number, place.number + 1
        ((self.name, self.row),) = (
            (name, table.edges.index(edge))
            for name, table in space.cells.items()
            if edge in table.edges
        )
        self.candidates = nn.ModuleList(
            LAYERS[name](place.inputs, place.outputs, place.stride, False, track)
            for name in space.cells[self.name].candidates[self.row]
        )

    def forward(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        beta = weights[self.name][self.row]
        parts = [w * layer(inputs[0]) for w, layer in zip(beta, self.candidates, strict=True)]
        out: Tensor = sum(parts[1:], parts[0])
        return out


class ReferenceSupernet(nn.Module):
    """Called as ``net(images, weights)``."""

    def __init__(
        self, space: Space, channels: int, cells: int, classes: int, track: bool = True
    ) -> None:
        super().__init__()

        def make_cell(place: Place | LayerPlace) -> nn.Module:
            if isinstance(place, LayerPlace):
                return ReferenceLayer(space, place, track)
            return ReferenceCell(space.cells[place.name], place, track)

        self.skeleton = space.around.body(NetworkSizes(channels, cells, classes), make_cell)
        conventional(self)

    def forward(self, images: Tensor, weights: Mapping[str, Tensor], live: None = None) -> Tensor:
        def call(cell: nn.Module, maps: tuple[Tensor, ...]) -> Tensor:
            out: Tensor = cell(maps, weights)
            return out

        logits: Tensor = self.skeleton(images, call)
        return logits
