"""The supernet: a skeleton filled with search cells."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.networks.table import LayerPlace, NetworkSizes, NodesPlace, Place
from darts.spaces import LayerWidths, Space, get_space
from darts.supernet.cell import SearchCell, Shared
from darts.supernet.depthwise import DepthwiseConvolutions
from darts.supernet.layer import SearchLayer
from darts.supernet.nodes import SearchNodes
from darts.supernet.plan import Live
from darts.supernet.source import Source
from darts.supernet.width import SearchWidth

Searched = SearchCell | SearchLayer | SearchWidth | SearchNodes
"""What stands at a place of the skeleton."""


def _with_auxiliary_skip(space: Space) -> Space:
    """Every edge gets one more candidate, DARTS-'s auxiliary skip connection."""
    return dataclasses.replace(
        space,
        cells={
            name: dataclasses.replace(
                cell, candidates=tuple((*row, "skip_connect") for row in cell.candidates)
            )
            for name, cell in space.cells.items()
        },
    )


class Supernet(nn.Module):
    """Called as ``net(images, weights)``; made by `build_supernet`.

    ``drop_path``: probability of dropping an edge's output for a sample while training (R-DARTS).
    ``auxiliary_weight``: weight of the auxiliary skip connections (DARTS-), a 0-d buffer.
    Both are set from outside, as a method's schedule says. ``own_convolutions``: those that leave
    a node are made together by `snsoftmax.node_convolve`, and depthwise ones on a GPU by
    `snsoftmax.depthwise`.
    ``criterion``: loss of logits and labels, the mean over the batch; may be replaced.
    """

    criterion: Callable[[Tensor, Tensor], Tensor]

    auxiliary_weight: Tensor | None

    def __init__(
        self,
        space: Space,
        sizes: NetworkSizes,
        track: bool,
        partial: int,
        auxiliary_skip: bool,
    ) -> None:
        super().__init__()
        _leave_as_it_is()
        self.space = space
        self.criterion = F.cross_entropy
        self.register_buffer("auxiliary_weight", torch.ones(()) if auxiliary_skip else None)
        executed = _with_auxiliary_skip(space) if auxiliary_skip else space

        def make_cell(place: Place | LayerPlace | NodesPlace) -> Searched:
            if isinstance(place, NodesPlace):
                return SearchNodes(executed.cells, place, track)
            if isinstance(place, LayerPlace):
                edge = place.number, place.number + 1
                name = next(n for n, table in executed.cells.items() if edge in table.edges)
                table = executed.cells[name]
                if isinstance(table, LayerWidths):
                    return SearchWidth(name, table, place)
                return SearchLayer(name, table, place, track)
            return SearchCell(executed.cells[place.name], place, track, partial)

        self.skeleton = space.around.body(sizes, make_cell)
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        images: Tensor,
        weights: Mapping[str, Tensor],
        live: Mapping[str, Live | Tensor] | None = None,
    ) -> Tensor:
        """Logits, [batch, classes].

        ``images``: [batch, colours, height, width]. ``weights``: cell type → β, [edges,
        operations], of the parameters' dtype; rows need not sum to one. ``live``: cell type →
        which candidates are computed, from `live_operations`; the others count as if their β were
        zero, where outputs and gradients of the weights are those without ``live``. Only the
        running statistics of operations that are left out stay behind. Or tensors, from
        `counting`, for β that is 0 where they are False: kernels that can leave something out read
        them, and nothing else changes.
        """
        self.space.check(weights)
        if self.auxiliary_weight is not None:
            weights = {
                name: torch.cat((w, self.auxiliary_weight.to(w).expand(len(w), 1)), dim=1)
                for name, w in weights.items()
            }
            live = live and {name: _with_one_more(rows) for name, rows in live.items()}
        images = images.contiguous(memory_format=torch.channels_last)

        shared: Shared = {}

        def call(cell: nn.Module, maps: tuple[Tensor, ...]) -> Tensor:
            out: Tensor = cell(maps, weights, live, shared)
            return out

        logits: Tensor = self.skeleton(images, call)
        return logits

    def search_cells(self) -> dict[str, Searched]:
        """The search cells, or layers, by module name."""
        return {n: m for n, m in self.named_modules() if isinstance(m, Searched)}

    @property
    def drop_path(self) -> float:
        """Probability of dropping an edge's output for a sample."""
        return next(iter(self.search_cells().values())).drop_path

    @drop_path.setter
    def drop_path(self, probability: float) -> None:
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"drop_path={probability} must be in [0, 1)")
        for cell in self.search_cells().values():
            cell.drop_path = probability

    @property
    def own_convolutions(self) -> bool:
        """Are kernels of this package for CUDA used that no GPU has run yet?"""
        return any(m.together for m in self.modules() if isinstance(m, Source))

    @own_convolutions.setter
    def own_convolutions(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, Source):
                module.together = value
            elif isinstance(module, DepthwiseConvolutions):
                module.untried = value

    def conventional_views(
        self, of: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ) -> dict[str, Tensor]:
        """Names in a network of one module per operation → parts of this network's tensors.

        Writing into the views loads the weights of a conventional supernet, operation k of edge e
        being ``edges.E.K`` in its cell; ``of`` maps a parameter to what is viewed, such as its
        gradient.
        """
        views: dict[str, Tensor] = {}
        cells = self.search_cells()
        for name, cell in cells.items():
            views |= {f"{name}.{key}": view for key, view in cell.views(of).items()}
        inside = tuple(f"{name}.sources." for name in cells)
        for name, parameter in self.named_parameters():
            if not name.startswith(inside):
                views[name] = of(parameter)
        for name, buffer in self.named_buffers():
            if not name.startswith(inside) and not name.endswith("num_batches_tracked"):
                views[name] = buffer
        return views


def _with_one_more(rows: Live | Tensor) -> Live | Tensor:
    """``rows`` with a candidate more on every edge, which counts."""
    if isinstance(rows, Tensor):
        return F.pad(rows, (0, 1), value=True)
    return tuple((*row, True) for row in rows)


@functools.cache
def _leave_as_it_is() -> None:
    """Keep torch.compile from the supernet.

    Its kernels are fused already, hand gradients over outside autograd, and would be traced anew
    for every node of every cell. Not a decorator: PyTorch's compiler takes a second to load, which
    commands that build no supernet would wait for.
    """
    Supernet.forward = torch.compiler.disable(Supernet.forward)  # type: ignore[method-assign]


def build_supernet(
    space: Space | str,
    *,
    channels: int,
    cells: int,
    classes: int,
    track_statistics: bool = True,
    partial: int = 1,
    auxiliary_skip: bool = False,
    colours: int = 3,
) -> Supernet:
    """The supernet of ``space``, or of the space called so.

    ``channels``: C of the first stage. ``cells``: per stage for NAS-Bench-201 (N) and 1Shot1, in
    all for the DARTS spaces. ``track_statistics``: keep running batch-norm statistics in the cells;
    without, batch statistics are used in evaluation too. ``partial``: K, 1/K of a node's channels
    go through the operations and the rest past them (PC-DARTS). ``auxiliary_skip``: add DARTS-'s
    skip connection to every edge. ``colours``: channels of the images. Raises ValueError on a size
    below 1 and where K does not divide the channels, UserError on an unknown name.
    """
    space = get_space(space)
    sizes = NetworkSizes(channels, cells, classes, colours)
    space.around.check_sizes(sizes)
    if partial < 1:
        raise ValueError(f"partial={partial} must be at least 1")
    if (instead := space.around.without_edges) and (partial > 1 or auxiliary_skip):
        asked = f"partial={partial}" if partial > 1 else "auxiliary_skip=True"
        raise ValueError(f"{asked} needs operations on edges of cells, and {space.name} {instead}")
    return Supernet(space, sizes, track_statistics, partial, auxiliary_skip)
