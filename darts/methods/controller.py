"""A controller that draws architectures one decision at a time (not a method by itself).

Pham, Guan, Zoph, Le, Dean: Efficient Neural Architecture Search via Parameter Sharing, ICML 2018.
Read: AutoDL-Projects' Controller (xautodl/models/cell_searchs/generic_model.py) and the authors'
(melodyguan/enas, src/cifar10/micro_controller.py). An LSTM of two layers and 32 units sees what it
chose last; logits are 2.5·tanh(x/5). All parameters start uniformly between -0.1 and 0.1, as in
the latter, but for the embeddings of the edges, which start at 0.

On nb201 each edge is a decision for an operation. In the DARTS spaces each node decides twice for
an edge and its operation, whose logits add up, and not twice for the same edge; `none` cannot be
chosen. Where several candidates of an edge are kept, it is decided for as often, and not twice for
the same. The authors' controller decides first for both nodes to read, then for both operations,
and may read one node twice. Cells are drawn one after another by the same LSTM.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from darts.methods.base import Weights, entropy
from darts.networks.genotype import KEPT_EDGES
from darts.spaces import Space

UNITS, TANH, TEMPERATURE = 32, 2.5, 5.0


class Drawn(NamedTuple):
    """Some architectures that were drawn, [samples, ...]."""

    log_probability: Tensor
    """[samples], differentiable."""
    entropy: Tensor
    """[samples] in nats, summed over the decisions, a number."""
    chosen: Tensor
    """[samples, edges of all cells, operations], 1 where chosen and 0 elsewhere."""
    said: Tensor
    """The same shape: what the decisions' distributions add up to, differentiable."""


def decisions(space: Space) -> Tensor:
    """What may be chosen in each decision, bool [decisions, edges of all cells, operations].

    As many operations as the longest row has; what a shorter one lacks may not be chosen.
    """
    few, cells = space.leaves_edges_out, space.cells.values()
    rows = [[not few or o != "none" for o in row] for cell in cells for row in cell.candidates]
    widest = max(map(len, rows))
    free = torch.tensor([row + [False] * (widest - len(row)) for row in rows])
    start, found = 0, []
    for cell in cells:
        for node in cell.nodes:
            edges = torch.tensor(cell.incoming(node)) + start
            each = edges[:, None].repeat_interleave(cell.kept, 0)
            crowds = [edges] * min(KEPT_EDGES, len(edges)) if few else each
            found += [torch.zeros_like(free).index_copy(0, at, free[at]) for at in crowds]
        start += len(cell.edges)
    return torch.stack(found)


class Controller(nn.Module):
    """Called as ``controller(samples, generator)``.

    Args:
        space: what it draws from.
        source: generator of the first parameters, on the CPU.
    """

    kept: Tensor
    """Candidates of an edge that are chosen, [edges of all cells, 1]."""
    open: Tensor

    def __init__(self, space: Space, source: torch.Generator) -> None:
        super().__init__()
        self.shapes = {name: cell.shape for name, cell in space.cells.items()}
        kept = [[cell.kept] for cell in space.cells.values() for _ in cell.edges]
        self.register_buffer("kept", torch.tensor(kept))
        self.register_buffer("open", decisions(space))
        edges, operations = self.open.shape[1:]
        self.start = nn.Parameter(torch.empty(1, 1, UNITS))
        self.lstm = nn.LSTM(UNITS, UNITS, num_layers=2)
        self.operation, self.edge = nn.Linear(UNITS, operations), nn.Linear(UNITS, edges)
        self.last_operation = nn.Embedding(operations, UNITS)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1, generator=source)
        self.last_edge = nn.Embedding(edges, UNITS, _weight=torch.zeros(edges, UNITS))

    def by_cell(self, table: Tensor) -> Weights:
        """[edges of all cells, operations] as one table a cell."""
        parts = table.split([edges for edges, _ in self.shapes.values()])
        shapes = self.shapes.items()
        return {c: p[:, :width] for (c, (_, width)), p in zip(shapes, parts, strict=True)}

    def forward(self, samples: int, generator: torch.Generator) -> Drawn:
        """Draw some architectures at once, by `generator` on the parameters' device."""
        inputs, state = self.start.expand(1, samples, -1), None
        said = chosen = inputs.new_zeros(samples, *self.open.shape[1:])
        log_probability = surprise = chosen[:, 0, 0]
        for opened in self.open:
            output, state = self.lstm(inputs, state)
            by_operation, by_edge = (
                TANH * torch.tanh(head(output[0]) / TEMPERATURE)
                for head in (self.operation, self.edge)
            )
            free = opened & (chosen == 0) & (chosen.sum(-1, keepdim=True) < self.kept)
            logits = (by_operation[:, None] + by_edge[:, :, None]).masked_fill(~free, -torch.inf)
            logs = logits.flatten(1).log_softmax(-1)
            index = torch.multinomial(logs.detach().exp(), 1, generator=generator)
            log_probability = log_probability + logs.gather(1, index)[:, 0]
            surprise = surprise + entropy(logs.detach().exp())
            said = said + logs.exp().view_as(said)
            chosen = chosen.flatten(1).scatter(1, index, 1.0).view_as(said)
            edge, operation = index // self.open.shape[2], index % self.open.shape[2]
            inputs = (self.last_operation(operation) + self.last_edge(edge)).transpose(0, 1)
        return Drawn(log_probability, surprise, chosen, said)


def reinforce(log_probabilities: Tensor, rewards: Tensor, baseline: Tensor, decay: float) -> Tensor:
    """The mean of -log p·(R - b) over some draws, 0-d, where b is a moving average of R.

    Args:
        log_probabilities: [draws], differentiable.
        rewards: [draws].
        baseline: b, 0-d; moves with each draw before it is subtracted. NaN before the first.
        decay: how much of b is left after one draw.
    """
    advantages = []
    for reward in rewards:
        before = torch.where(baseline.isnan(), reward, baseline)
        baseline.copy_(reward + decay * (before - reward))
        advantages.append(reward - baseline)
    return -(log_probabilities * torch.stack(advantages)).mean()
