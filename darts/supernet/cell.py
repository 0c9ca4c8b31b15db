"""A cell of the supernet: every candidate on every edge, batched over the edges of a node."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.networks.operations import FactorizedReduce, ReLUConvNorm, drop_path, noise_like
from darts.networks.table import Place
from darts.spaces.table import Cell
from darts.supernet.branches import Views
from darts.supernet.mixture import SharedMap, Summand, mix
from darts.supernet.plan import Live, Plan, Term, make_plan
from darts.supernet.source import Flags, Source

Shared = dict[tuple[int, tuple[tuple[int, ...], ...]], tuple[Tensor, Tensor]]
"""Within one pass: β, by its identity, and places in it → β itself, and what is gathered there. So
too of which β count."""


class SearchCell(nn.Module):
    """One cell of the supernet."""

    def __init__(self, cell: Cell, place: Place, track: bool, partial: int) -> None:
        super().__init__()
        c = place.channels
        if c % partial:
            raise ValueError(f"partial={partial} must divide the number of channels, {c}")
        if partial > 1 and place.stride > 1:
            raise ValueError(f"partial={partial} needs cells that keep the number of channels")
        self.cell = cell
        self.place = place
        self.name = place.name
        self.partial = partial
        self.drop_path = 0.0
        self._kept: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self.preprocess = nn.ModuleList()
        if cell.inputs == 2:
            older, old = place.inputs
            self.preprocess.append(
                FactorizedReduce(older, c, False, track)
                if place.after_reduction
                else ReLUConvNorm(older, c, 1, 1, False, track)
            )
            self.preprocess.append(ReLUConvNorm(old, c, 1, 1, False, track))
        self.sources = nn.ModuleDict(
            {
                str(u): Source(
                    cell,
                    u,
                    place.inputs[0] if u == 0 and place.stride > 1 else c // partial,
                    c // partial,
                    self._stride(cell.outgoing(u)[0]),
                    track,
                )
                for u in sorted({s for s, _ in cell.edges})
            }
        )

    def forward(
        self,
        inputs: Sequence[Tensor],
        weights: Mapping[str, Tensor],
        live: Mapping[str, Live | Tensor] | None,
        shared: Shared | None = None,
    ) -> Tensor:
        """The map that leaves, of the ``inputs`` that enter; the rest as `Supernet` has it.

        ``shared``: one for all cells of a pass. Those of a type then gather a node's β once, and
        its gradient is put back once: the same sums in the same order. Cells with partial channels
        read β by another way too, between whose sums theirs would come, and gather for themselves.
        """
        beta = weights[self.name]
        shared = {} if shared is None or self.partial > 1 else shared
        mine = live[self.name] if live else None
        flags = None
        if isinstance(mine, Tensor):
            flags, mine = functools.partial(self._flags, mine, shared), None
        plan = make_plan(self.cell, mine)
        if self.preprocess:
            inputs = [layer(x) for layer, x in zip(self.preprocess, inputs, strict=True)]
        nodes: dict[int, Tensor] = {}
        summands: dict[Term, Summand] = {}
        for node, x in enumerate(inputs):
            nodes[node] = self._leave(node, x, plan, summands, flags)
        for node in self.cell.nodes:
            x = self._arrive(node, nodes, plan.nodes[node], summands, beta, shared)
            nodes[node] = self._leave(node, x, plan, summands, flags)
        if self.cell.concatenate:
            return torch.cat([nodes[n] for n in self.cell.nodes], dim=1)
        return nodes[self.cell.nodes[-1]]

    def _stride(self, edge: int) -> int:
        """Of the operations on an edge."""
        entering = self.cell.edges[edge][0] < self.cell.inputs
        return self.place.stride if entering and self.place.stride > 1 else self.cell.stride(edge)

    def _leave(
        self,
        node: int,
        x: Tensor,
        plan: Plan,
        summands: dict[Term, Summand],
        flags: Flags | None,
    ) -> Tensor:
        """Compute all that leaves ``node``, whose map is ``x``."""
        if terms := plan.outgoing(node):
            summands.update(self._source(node)(self._active(x), terms, flags))
        return x

    def _flags(self, live: Tensor, shared: Shared, slots: Sequence[tuple[int, int]]) -> Tensor:
        """Those of the edges and columns ``slots``."""
        places = tuple((edge * live.shape[1] + column,) for edge, column in slots)
        key = id(live), places
        if key not in shared:
            shared[key] = live, self._gather(live.reshape(-1), places)
        return shared[key][1]

    def _active(self, x: Tensor) -> Tensor:
        """The channels that go through the operations (PC-DARTS: the first 1/K)."""
        return x if self.partial == 1 else x.narrow(1, 0, x.shape[1] // self.partial)

    def _arrive(
        self,
        node: int,
        nodes: Mapping[int, Tensor],
        terms: Sequence[Term],
        summands: Mapping[Term, Summand],
        beta: Tensor,
        shared: Shared,
    ) -> Tensor:
        """The map of ``node``."""
        edge = self.cell.incoming(node)[0]
        step = self._stride(edge)
        like = self._active(nodes[self.cell.edges[edge][0]])[:, :, ::step, ::step]
        if self.place.stride > 1 and like.shape[1] != self.place.channels:
            like = like.repeat(1, 2, 1, 1)
        read = {t: summands.get(t) or Summand(SharedMap.of(noise_like(like))) for t in terms}
        groups: Sequence[Sequence[Term]] = [terms] if terms else []
        if self.drop_path > 0.0 and self.training:
            groups = [[t for t in terms if t.edge == e] for e in {t.edge: None for t in terms}]
        parts = [self._mix({t: read[t] for t in group}, beta, shared) for group in groups]
        if self.drop_path > 0.0 and self.training:
            parts = [drop_path(part, self.drop_path) for part in parts]
        if parts:
            out = sum(parts[1:], parts[0])
        else:  # only `none` enters: a zero map, and a zero gradient of β rather than no gradient
            out = torch.zeros_like(like) + 0 * beta[list(self.cell.incoming(node))].sum()
        return out if self.partial == 1 else self._bypass(node, nodes, out, beta)

    def _mix(self, read: Mapping[Term, Summand], beta: Tensor, shared: Shared) -> Tensor:
        entries: dict[int, tuple[Summand, list[int]]] = {}
        for term, summand in sorted(read.items(), key=lambda pair: not pair[1].normalized):
            _, index = entries.setdefault(id(summand), (summand, []))
            index.append(term.edge * beta.shape[1] + term.column)
        places = tuple(tuple(index) for _, index in entries.values())
        key = id(beta), places
        if key not in shared:
            shared[key] = beta, self._gather(beta.reshape(-1), places)
        return mix([summand for summand, _ in entries.values()], shared[key][1], self.training)

    def _gather(self, flat: Tensor, places: tuple[tuple[int, ...], ...]) -> Tensor:
        """For each of ``places`` the sum of ``flat`` over it."""
        most = max(map(len, places))
        if most > 1:  # a map that counts twice: DARTS-'s auxiliary skip beside the candidate
            places = tuple(index + (len(flat),) * (most - len(index)) for index in places)
            flat = torch.cat((flat, flat.new_zeros(1)))
        # Not flat[...], whose backward sorts the indices on a GPU.
        gathered = flat.gather(0, self._positions(tuple(i for row in places for i in row), flat))
        return gathered.view(-1, most).sum(1) if most > 1 else gathered

    def _positions(self, values: tuple[int, ...], like: Tensor) -> Tensor:
        """``values`` where ``like`` is, kept by the cell: a recorded graph reads them there."""
        key = values, like.device
        if key not in self._kept:
            self._kept[key] = torch.tensor(values, device=like.device)
        return self._kept[key]

    def _bypass(
        self, node: int, nodes: Mapping[int, Tensor], mixed: Tensor, beta: Tensor
    ) -> Tensor:
        """PC-DARTS: the other channels pass by each edge, then channels are shuffled.

        An edge's share is the sum of its β: 1, or the edge's weight where the caller multiplied β
        by one (Eq. 6 of Xu et al., 2020).
        """
        rest: Tensor | None = None
        for e in self.cell.incoming(node):
            x = nodes[self.cell.edges[e][0]]
            x = x.narrow(1, mixed.shape[1], x.shape[1] - mixed.shape[1])
            x = F.max_pool2d(x, 2, 2, ceil_mode=True) if self.cell.stride(e) == 2 else x
            rest = x * beta[e].sum() if rest is None else rest + x * beta[e].sum()
        assert rest is not None
        return F.channel_shuffle(torch.cat((mixed, rest), dim=1), self.partial)

    def _source(self, node: int) -> Source:
        source = self.sources[str(node)]
        assert isinstance(source, Source)
        return source

    def learnt(self) -> Iterator[tuple[str, int, list[nn.Parameter]]]:
        """See `Source.learnt`, node by node."""
        for node in self.sources:
            yield from self._source(int(node)).learnt()

    def views(self, of: Callable[[Tensor], Tensor]) -> Views:
        """Conventional names (``edges.E.K...``) → parts of this cell's tensors."""
        return {
            f"edges.{e}.{k}.{name}": view
            for e, candidates in enumerate(self.cell.candidates)
            for k in range(len(candidates))
            for name, view in self._source(self.cell.edges[e][0]).views((e, k), of).items()
        }
