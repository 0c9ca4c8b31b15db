"""A cell in the supernet whose nodes carry the operations and weigh what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from darts.networks.nb101 import NODES, make_node_operation, reads
from darts.networks.operations import ConvNormReLU, drop_path
from darts.networks.table import NodesPlace
from darts.spaces.table import Cell
from darts.supernet.branches import Views
from darts.supernet.mixture import SharedMap, Summand, mix
from darts.supernet.plan import Live


class SearchNodes(nn.Module):
    """NAS-Bench-1Shot1's cell: x_v = Σ_k β_vk·o_k(Σ_s γ_vs·x_s), out = γ_0·p(x) + [γ_v·x_v]_v.

    x_0 is a projection of the cell's input, another one for each node; γ of the output weighs its
    parts, which lie side by side. A node that has no choice of what to read adds it up. Batch norms
    are affine, as in the authors' code. ``drop_path`` drops a map that a node reads, for a sample.

    Args:
        tables: cell type → its table, of the whole space.
        place: of this cell.
        track: keep running batch-norm statistics.
    """

    def __init__(self, tables: Mapping[str, Cell], place: NodesPlace, track: bool) -> None:
        super().__init__()
        self.name = NODES
        self.place = place
        self.drop_path = 0.0
        rows, c = tables[NODES].candidates, place.channels
        self.output = len(rows) + 1
        self.outputs = len(rows) * c
        widths = [c] * len(rows) + [self.outputs]
        self.projections = nn.ModuleList(
            ConvNormReLU(place.inputs, width, 1, 1, True, track) for width in widths
        )
        self.candidates = nn.ModuleList(
            nn.ModuleList(make_node_operation(name, c, track) for name in row) for row in rows
        )

    def forward(
        self,
        inputs: Sequence[Tensor],
        weights: Mapping[str, Tensor],
        live: Mapping[str, Live] | None,
        shared: object = None,
    ) -> Tensor:
        """The map that leaves, of the one that enters; the rest as `Supernet` has it.

        Nothing is ``shared``: what is here of β no other cell gathers.
        """
        (x,) = inputs
        read = {v: self._read(v, live) for v in range(1, self.output + 1)}
        needed = {self.output}
        for v in reversed(read):
            needed |= set(read[v]) if v in needed else set()
        maps = {0: x}
        for v in range(1, self.output):
            if v in needed:
                maps[v] = self._node(v, self._entering(v, maps, read[v], weights), weights, live)
        return self._output(maps, read[self.output], weights)

    def _output(
        self, maps: Mapping[int, Tensor], read: list[int], weights: Mapping[str, Tensor]
    ) -> Tensor:
        """What leaves: the nodes that are ``read`` side by side, and the cell's input if it is."""
        x, shares = maps[0], self._shares(self.output, weights)
        nothing = x.new_zeros(()).expand(len(x), self.place.channels, *x.shape[2:])
        beside = [shares[v] * maps[v] if v in read else nothing for v in range(1, self.output)]
        out = torch.cat(beside, 1).contiguous(memory_format=torch.channels_last)
        if 0 in read:
            out = out + shares[0] * self.projections[-1](x)
        return out if read else out + 0 * shares.sum()

    def _shares(self, v: int, weights: Mapping[str, Tensor]) -> Tensor:
        """γ of vertex v, [v]; ones where it has no choice."""
        name = reads(v, self.output)
        return weights[name][0] if name in weights else weights[NODES].new_ones(v)

    def _read(self, v: int, live: Mapping[str, Live] | None) -> list[int]:
        """What vertex v reads of the others, by their numbers."""
        name = reads(v, self.output)
        if live is None or name not in live:
            return list(range(v))
        return [s for s, is_live in enumerate(live[name][0]) if is_live]

    def _entering(
        self, v: int, maps: Mapping[int, Tensor], read: list[int], weights: Mapping[str, Tensor]
    ) -> Tensor:
        """What enters the operations of node v."""
        parts = [self.projections[v - 1](maps[0]) if s == 0 else maps[s] for s in read]
        if self.drop_path > 0.0 and self.training:
            parts = [drop_path(part, self.drop_path) for part in parts]
        if reads(v, self.output) not in weights:
            return sum(parts[1:], parts[0])
        return self._weighed(parts, self._shares(v, weights), read, maps[0])

    def _node(
        self, v: int, x: Tensor, weights: Mapping[str, Tensor], live: Mapping[str, Live] | None
    ) -> Tensor:
        """The map of node v, of what enters it."""
        candidates = self.candidates[v - 1]
        assert isinstance(candidates, nn.ModuleList)
        computed = live[NODES][v - 1] if live else (True,) * len(candidates)
        columns = [k for k, is_live in enumerate(computed) if is_live]
        parts = [candidates[k](x) for k in columns]
        return self._weighed(parts, weights[NODES][v - 1], columns, x)

    def _weighed(
        self, maps: list[Tensor], weights: Tensor, places: list[int], like: Tensor
    ) -> Tensor:
        """Maps times those of ``weights`` at ``places``, added up; zero where there is none."""
        if not maps:  # and a zero gradient of the weights, rather than none
            size = len(like), self.place.channels, *like.shape[2:]
            nothing = like.new_zeros(size).contiguous(memory_format=torch.channels_last)
            return nothing + 0 * weights.sum()
        chosen = torch.stack([weights[k] for k in places])
        return mix([Summand(SharedMap.of(map)) for map in maps], chosen, self.training)

    def learnt(self) -> Iterator[tuple[str, int, list[nn.Parameter]]]:
        """See `Source.learnt`, node by node."""
        for candidates in self.candidates:
            assert isinstance(candidates, nn.ModuleList)
            for module in candidates:
                yield type(module).__name__, 1, list(module.parameters())

    def views(self, of: Callable[[Tensor], Tensor]) -> Views:
        """Nothing: the cell is a conventional one, with the names of one."""
        return {}
