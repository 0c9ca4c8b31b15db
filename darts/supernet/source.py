"""Everything that is computed from one node of a cell of the supernet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch.nn.functional as F
from torch import Tensor, nn

from darts.networks.normalization import batch_norm
from darts.networks.operations import make_operation
from darts.spaces.table import Cell
from darts.supernet.branches import (
    Branch,
    Convolutions,
    Placed,
    Reductions,
    Statistics,
    Views,
    batched,
    convolved,
    convolved_together,
)
from darts.supernet.depthwise import (
    DepthwiseConvolutions,
    DilatedConvolutions,
    SeparableConvolutions,
    convolved_depthwise,
)
from darts.supernet.leave import Departure, leave
from darts.supernet.mixture import SharedMap, Summand
from darts.supernet.plan import Term
from darts.supernet.pool import max_pool
from snsoftmax.node_convolve import fits_map

AVERAGE = "avg_pool_3x3"
POOLS = (AVERAGE, "max_pool_3x3")
EDGELESS = (*POOLS, "none", "noise", "skip_connect")
"""Operations without parameters, which are the same for every edge."""

Flags = Callable[[Sequence[tuple[int, int]]], Tensor]
"""Edges and columns → do they count? On the device."""


def make_branch(
    operation: str, edges: int, channels: int, stride: int, track: bool
) -> Branch | None:
    """The branch of ``operation``, or None for one that has none."""
    match operation:
        case "nor_conv_1x1" | "nor_conv_3x3":
            return Convolutions(edges, channels, int(operation[-1]), track)
        case "sep_conv_3x3" | "sep_conv_5x5":
            return SeparableConvolutions(edges, channels, int(operation[-1]), stride, track)
        case "dil_conv_3x3" | "dil_conv_5x5":
            return DilatedConvolutions(edges, channels, int(operation[-1]), stride, track)
        case "skip_connect" if stride == 2:
            return Reductions(edges, channels, track)
    return None


class Source(nn.Module):
    """Everything that is computed from one node: one ReLU, one branch for each operation.

    Pooling and the identity do not depend on the edge and are computed once, on a CPU with a
    pool's normalisation. An operation that is not the package's own is run as it is, one module an
    edge, and so are all that double the channels.

    ``together``: see `Supernet.own_convolutions`.
    """

    def __init__(
        self, cell: Cell, node: int, inputs: int, channels: int, stride: int, track: bool
    ) -> None:
        super().__init__()
        slots: dict[str, list[tuple[int, int]]] = {}
        for e in cell.outgoing(node):
            for column, operation in enumerate(cell.candidates[e]):
                slots.setdefault(operation, []).append((e, column))
        self.stride = stride
        self.slots = slots
        self.channels = channels
        self.together = False
        self.branches = nn.ModuleDict()
        self.modules_of = nn.ModuleDict()
        self.pool_statistics = nn.ModuleDict()
        for operation, leaving in slots.items():
            widens = inputs != channels and operation not in ("none", "noise")
            branch = (
                None if widens else make_branch(operation, len(leaving), channels, stride, track)
            )
            if branch is not None:
                self.branches[operation] = branch
            elif widens or operation not in EDGELESS:
                self.modules_of[operation] = nn.ModuleList(
                    make_operation(operation, inputs, channels, stride, False, track)
                    for _ in leaving
                )
            if operation in POOLS and cell.normalize_pools:
                self.pool_statistics[operation] = Statistics(1, channels, track)

    def forward(
        self, x: Tensor, terms: list[Term], flags: Flags | None = None
    ) -> dict[Term, Summand]:
        """What each of ``terms``, all of which read this node's map ``x``, contributes.

        What ``flags`` says not to count may be left out, its maps then hold anything.
        """
        operations = {t.operation: [u for u in terms if u.operation == t.operation] for t in terms}
        rows = {
            operation: [self.slots[operation].index((t.edge, t.column)) for t in mine]
            for operation, mine in operations.items()
            if operation in self.branches
        }
        average = AVERAGE in operations and self.stride == 1
        departure, maps = self._learnt_maps(x, rows, average, flags)
        summands: dict[Term, Summand] = {}
        for operation, mine in operations.items():
            if operation in rows:
                parts = self._normalized(operation, maps[operation], rows[operation])
                summands.update(zip(mine, parts, strict=True))
            elif operation in self.modules_of:
                for term in mine:
                    y = self._module(operation, (term.edge, term.column))(departure.map)
                    summands[term] = Summand(SharedMap.of(y.to(x.dtype)))
            elif operation != "noise":
                parts = self._same_for_all(operation, departure, len(mine))
                summands.update(zip(mine, parts, strict=True))
        return summands

    def _learnt_maps(
        self, x: Tensor, rows: dict[str, list[int]], average: bool, flags: Flags | None
    ) -> tuple[Departure, dict[str, list[Placed]]]:
        """What leaves the node, and what the branches make of it for their ``rows``."""
        together = self._made_together(x)
        joint = {
            o: (branch, r)
            for o, r in rows.items()
            if isinstance(branch := self._branch(o), Convolutions) and (together or branch.joins(x))
        }
        begun = {
            o: (branch, r)
            for o, r in rows.items()
            if isinstance(branch := self._branch(o), DepthwiseConvolutions) and branch.joins(x)
        }
        apart = [o for o in rows if o not in joint and o not in begun]
        readers = {o: self._branch(o).readers(rows[o], x) for o in apart}
        reads = bool(joint) and not together  # the ReLU's result
        departure = leave(x, reads + bool(begun) + sum(readers.values()), average)
        rectified = iter(departure.rectified)
        maps: dict[str, list[Placed]] = {}
        if joint and together:
            parts = sorted(joint.items(), key=lambda part: -part[1][0].weight.shape[-1])
            slots = [self.slots[o][row] for o, (_, of) in parts for row in of]
            live = flags(slots) if flags else None
            found = convolved_together(departure.map, [part for _, part in parts], live)
            maps.update(zip((o for o, _ in parts), found, strict=True))
        elif joint:
            maps.update(zip(joint, convolved(next(rectified), list(joint.values())), strict=True))
        if begun:
            found = convolved_depthwise(next(rectified), list(begun.values()))
            maps.update(zip(begun, found, strict=True))
        for operation, count in readers.items():
            xs = list(islice(rectified, count))
            maps[operation] = self._branch(operation)(xs, rows[operation])
        return departure, maps

    def _made_together(self, x: Tensor) -> bool:
        """Are the convolutions made by `node_convolve`? On a GPU where it has kernels for them."""
        if not self.together or not batched(x):
            return self.together
        return fits_map(x, max(len(slots) for slots in self.slots.values()))

    def _branch(self, operation: str) -> Branch:
        branch = self.branches[operation]
        assert isinstance(branch, Branch)
        return branch

    def _module(self, operation: str, slot: tuple[int, int]) -> nn.Module:
        """The module of an operation that has one for each edge."""
        modules = self.modules_of[operation]
        assert isinstance(modules, nn.ModuleList)
        return modules[self.slots[operation].index(slot)]

    def _normalized(
        self, operation: str, maps: Sequence[Placed], rows: Sequence[int]
    ) -> list[Summand]:
        """What the operation, given its maps, contributes on each of its edges ``rows``."""
        statistics = self._branch(operation).statistics
        c = self.channels
        return [
            Summand(shared, True, start, c, *statistics.row(r), *shared.moments_at(start // c))
            for (shared, start), r in zip(maps, rows, strict=True)
        ]

    def _same_for_all(self, operation: str, departure: Departure, edges: int) -> list[Summand]:
        """What an operation without parameters contributes on each of ``edges`` edges."""
        shared = self._edgeless(operation, departure)
        if operation not in self.pool_statistics:
            return [Summand(shared)] * edges
        statistics = self.pool_statistics[operation]
        assert isinstance(statistics, Statistics)
        running = mean, var = statistics.row(0)
        training = self.training or mean is None
        if not batched(shared.map):
            normalized = batch_norm(shared.map, mean, var, training)
            return [Summand(SharedMap.of(normalized))] * edges
        # Each node normalises it as it reads it; one of them moves the running statistics.
        others = (None, None) if training else running
        return [Summand(shared, True, 0, self.channels, *running)] + [
            Summand(shared, True, 0, self.channels, *others) for _ in range(edges - 1)
        ]

    def _edgeless(self, operation: str, departure: Departure) -> SharedMap:
        """The map of an operation without parameters, which is the same for every edge."""
        x = departure.map
        if operation == "skip_connect":
            return SharedMap.of(x, departure.map_gradients)
        averaged = departure.averaged if operation == AVERAGE else None
        if averaged is not None:
            y = averaged
        elif operation == AVERAGE:
            y = F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)
        else:
            y = max_pool(x, self.stride)
        plain = averaged is not None and operation not in self.pool_statistics
        return SharedMap.of(y, departure.averaged_gradients if plain else None)

    def learnt(self) -> Iterator[tuple[str, int, list[nn.Parameter]]]:
        """Operations with parameters: the name, how many edges, the parameters.

        The edges lie one after another along each parameter's first dimension.
        """
        for operation, branch in self.branches.items():
            yield operation, self._branch(operation).edges, list(branch.parameters())
        for operation in self.modules_of:
            for slot in self.slots[operation]:
                yield operation, 1, list(self._module(operation, slot).parameters())

    def views(self, slot: tuple[int, int], of: Callable[[Tensor], Tensor]) -> Views:
        """Names within the conventional module of (edge, column) → its part of this source."""
        operation = next(o for o, slots in self.slots.items() if slot in slots)
        if operation in self.branches:
            return self._branch(operation).views(self.slots[operation].index(slot), of)
        if operation in self.modules_of:
            module = self._module(operation, slot)
            return {name: of(p) for name, p in module.named_parameters()} | {
                name: b
                for name, b in module.named_buffers()
                if not name.endswith("num_batches_tracked")
            }
        if operation in self.pool_statistics:
            statistics = self.pool_statistics[operation]
            assert isinstance(statistics, Statistics)
            return statistics.views(0, "1")
        return {}
