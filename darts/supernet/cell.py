"""A cell of the supernet: every candidate on every edge, batched over the edges of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.operations import FactorizedReduce, ReLUConvNorm, drop_path
from darts.skeleton import Place
from darts.spaces.table import Cell
from darts.supernet.branches import EPS, MOMENTUM, Statistics, Views, make_branch
from darts.supernet.mixture import Normalized, mixture
from darts.supernet.plan import Live, Plan, Term, make_plan

POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "avg_pool_3x3": lambda x, stride: F.avg_pool2d(x, 3, stride, 1, count_include_pad=False),
    "max_pool_3x3": lambda x, stride: F.max_pool2d(x, 3, stride, 1),
}


class Source(nn.Module):
    """Everything that is computed from one node: one ReLU, one branch for each operation.

    Pooling (with its normalisation) and the identity do not depend on the edge and are computed
    once.
    """

    def __init__(self, cell: Cell, node: int, channels: int, track: bool) -> None:
        super().__init__()
        edges: dict[str, list[int]] = {}
        for e in cell.outgoing(node):
            for operation in cell.candidates[e]:
                edges.setdefault(operation, []).append(e)
        self.stride = cell.stride(cell.outgoing(node)[0])
        self.edges = edges
        self.channels = channels
        self.branches = nn.ModuleDict()
        self.pool_statistics = nn.ModuleDict()
        for operation, leaving in edges.items():
            branch = make_branch(operation, len(leaving), channels, self.stride, track)
            if branch is not None:
                self.branches[operation] = branch
            if operation in POOLS and cell.normalize_pools:
                self.pool_statistics[operation] = Statistics(1, channels, track)

    def forward(self, x: Tensor, terms: list[Term]) -> dict[Term, Tensor | Normalized]:
        """The map of each of ``terms``, all of which read this node's map ``x``."""
        maps: dict[Term, Tensor | Normalized] = {}
        rectified: Tensor | None = None
        for operation in dict.fromkeys(term.operation for term in terms):
            mine = [term for term in terms if term.operation == operation]
            if operation in self.branches:
                rectified = x.relu() if rectified is None else rectified
                maps.update(self._branch(operation, rectified, mine))
            elif operation == "noise":
                shape_of = x[:, :, :: self.stride, :: self.stride]
                maps.update((term, torch.randn_like(shape_of)) for term in mine)
            else:
                shared = self._pool(operation, x) if operation in POOLS else x
                maps.update((term, shared) for term in mine)
        return maps

    def _branch(self, operation: str, x: Tensor, terms: list[Term]) -> dict[Term, Normalized]:
        branch = self.branches[operation]
        rows = [self.edges[operation].index(term.edge) for term in terms]
        y: Tensor = branch(x, rows)
        return {
            term: Normalized(
                y.narrow(1, i * self.channels, self.channels), *branch.statistics.row(r)
            )
            for i, (term, r) in enumerate(zip(terms, rows, strict=True))
        }

    def _pool(self, operation: str, x: Tensor) -> Tensor:
        y = POOLS[operation](x, self.stride)
        if operation not in self.pool_statistics:
            return y
        mean, var = self.pool_statistics[operation].row(0)
        return F.batch_norm(y, mean, var, None, None, self.training or mean is None, MOMENTUM, EPS)

    def views(self, edge: int, operation: str, of: Callable[[Tensor], Tensor]) -> Views:
        """Names within the conventional operation's module → this source's part for ``edge``."""
        if operation in self.branches:
            return self.branches[operation].views(self.edges[operation].index(edge), of)
        if operation in self.pool_statistics:
            return self.pool_statistics[operation].views(0, "1")
        return {}


class SearchCell(nn.Module):
    """One cell of the supernet, called with its input maps, the weights and what is live."""

    def __init__(self, cell: Cell, place: Place, track: bool, partial: int) -> None:
        super().__init__()
        c = place.channels
        if c % partial:
            raise ValueError(f"partial={partial} must divide the number of channels, {c}")
        self.cell = cell
        self.name = place.name
        self.partial = partial
        self.drop_path = 0.0
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
                str(u): Source(cell, u, c // partial, track)
                for u in sorted({s for s, _ in cell.edges})
            }
        )

    def forward(self, *args: object) -> Tensor:
        """``args``: the input maps, then {cell type: β}, then {cell type: live} or None."""
        *inputs, weights, live = args
        return self._run(inputs, weights[self.name], live and live[self.name])  # type: ignore

    def _run(self, inputs: list[Tensor], beta: Tensor, live: Live | None) -> Tensor:
        plan = make_plan(self.cell, live)
        if self.preprocess:
            inputs = [layer(x) for layer, x in zip(self.preprocess, inputs, strict=True)]
        nodes = dict(enumerate(inputs))
        maps: dict[Term, Tensor | Normalized] = {}
        for node in self.cell.nodes:
            for u in set(nodes).difference(t.source for t in maps):
                self._leave(u, nodes[u], plan, maps)
            nodes[node] = self._arrive(node, nodes, plan, maps, beta)
        if self.cell.concatenate:
            return torch.cat([nodes[n] for n in self.cell.nodes], dim=1)
        return nodes[self.cell.nodes[-1]]

    def _leave(self, u: int, x: Tensor, plan: Plan, maps: dict[Term, Tensor | Normalized]) -> None:
        if terms := plan.outgoing(u):
            maps.update(self.sources[str(u)](self._active(x), terms))

    def _active(self, x: Tensor) -> Tensor:
        """The channels that go through the operations (PC-DARTS: the first 1/K)."""
        return x if self.partial == 1 else x.narrow(1, 0, x.shape[1] // self.partial)

    def _arrive(
        self,
        node: int,
        nodes: Mapping[int, Tensor],
        plan: Plan,
        maps: Mapping[Term, Tensor | Normalized],
        beta: Tensor,
    ) -> Tensor:
        terms = plan.nodes[node]
        if self.drop_path > 0.0 and self.training:
            edges = {term.edge: [t for t in terms if t.edge == term.edge] for term in terms}
            parts = [
                drop_path(self._mix(group, maps, beta), self.drop_path) for group in edges.values()
            ]
            out = sum(parts[1:], parts[0]) if parts else None
        else:
            out = self._mix(terms, maps, beta) if terms else None
        if out is None:
            edge = self.cell.incoming(node)[0]
            step = self.cell.stride(edge)
            out = torch.zeros_like(
                self._active(nodes[self.cell.edges[edge][0]])[:, :, ::step, ::step]
            )
        return out if self.partial == 1 else self._bypass(node, nodes, out, beta)

    def _mix(
        self,
        terms: list[Term] | tuple[Term, ...],
        maps: Mapping[Term, Tensor | Normalized],
        beta: Tensor,
    ) -> Tensor:
        normalized = [(t, m) for t in terms if isinstance(m := maps[t], Normalized)]
        plain = [(t, m) for t in terms if isinstance(m := maps[t], Tensor)]
        columns = beta.shape[1]
        index = [t.edge * columns + t.column for t, _ in (*normalized, *plain)]
        weights = beta.reshape(-1)[index]
        return mixture([m for _, m in normalized], [m for _, m in plain], weights, self.training)

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
            x = F.max_pool2d(x, 2, 2) if self.cell.stride(e) == 2 else x
            rest = x * beta[e].sum() if rest is None else rest + x * beta[e].sum()
        assert rest is not None
        return F.channel_shuffle(torch.cat((mixed, rest), dim=1), self.partial)

    def views(self, of: Callable[[Tensor], Tensor]) -> Views:
        """Conventional names (``edges.E.K...``) → parts of this cell's tensors."""
        return {
            f"edges.{e}.{k}.{name}": view
            for e, candidates in enumerate(self.cell.candidates)
            for k, operation in enumerate(candidates)
            for name, view in self.sources[str(self.cell.edges[e][0])]
            .views(e, operation, of)
            .items()
        }
