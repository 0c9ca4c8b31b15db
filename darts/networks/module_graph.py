"""A cell of NAS-Bench-101 as a graph: what is left of it, its widths, its hash, its text.

Ying, Klein, Christiansen, Real, Murphy, Hutter: NAS-Bench-101: Towards Reproducible Neural
Architecture Search, ICML 2019. Read: google-research/nasbench (lib/model_spec.py,
lib/model_builder.py, lib/graph_util.py, lib/config.py).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from darts.networks.table import require

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
"""In the benchmark's order, by which the hash numbers them."""
INPUT, OUTPUT = "input", "output"
MOST_VERTICES, MOST_EDGES = 7, 9


class ModuleGraph(NamedTuple):
    """Vertices in order, of which the first is the cell's input and the last its output."""

    matrix: tuple[tuple[int, ...], ...]
    """Row s, column t: 1 where t reads s, which comes before it."""
    operations: tuple[str, ...]
    """One a vertex: "input", some of `OPERATIONS`, "output"."""

    @classmethod
    def parse(cls, text: str) -> ModuleGraph:
        """Read `text`, JSON like ``{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}``.

        Raises ValueError where it is no cell of the benchmark.
        """
        try:
            fields: Any = json.loads(text)
            matrix, operations = fields["matrix"], tuple(fields["ops"])
            found = cls(tuple(tuple(row) for row in matrix), operations)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"genotype {text!r} is not of the form "
                '{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}'
            ) from error
        found._check(text)
        return found

    def _check(self, text: str) -> None:
        count = len(self.operations)
        require(
            text,
            len(self.matrix) == count and all(len(row) == count for row in self.matrix),
            "must have a square matrix with a row for each of its ops",
        )
        require(
            text, 2 <= count <= MOST_VERTICES, f"must have 2 to {MOST_VERTICES} ops, not {count}"
        )
        require(
            text,
            all(type(x) is int and x in (0, 1) for row in self.matrix for x in row),
            "has an entry of the matrix that is neither 0 nor 1",
        )
        require(
            text,
            not any(x for s, row in enumerate(self.matrix) for x in row[: s + 1]),
            "has an edge that leads to no later vertex; the matrix must be upper triangular",
        )
        ends = self.operations[0], self.operations[-1]
        require(text, ends == (INPUT, OUTPUT), "must have ops from 'input' to 'output'")
        for operation in self.operations[1:-1]:
            require(
                text,
                operation in OPERATIONS,
                f"has the op {operation!r}, which is none of {', '.join(OPERATIONS)}",
            )
        require(
            text,
            {0, count - 1} <= self.used(),
            "has an output that does not depend on its input",
        )
        edges = sum(map(sum, self.pruned().matrix))
        require(
            text,
            edges <= MOST_EDGES,
            f"must have at most {MOST_EDGES} edges between its input and output, not {edges}",
        )

    def __str__(self) -> str:
        return json.dumps({"matrix": self.matrix, "ops": self.operations})

    @property
    def last(self) -> int:
        """The output's number."""
        return len(self.operations) - 1

    def sources(self, vertex: int) -> list[int]:
        """What a vertex reads."""
        return [s for s, row in enumerate(self.matrix) if row[vertex]]

    def targets(self, vertex: int) -> list[int]:
        """What reads a vertex."""
        return [t for t, edge in enumerate(self.matrix[vertex]) if edge]

    def used(self) -> set[int]:
        """The vertices on paths from the input to the output."""
        reached, needed = {0}, {self.last}
        for vertex in range(1, len(self.operations)):
            if reached.intersection(self.sources(vertex)):
                reached.add(vertex)
        for vertex in reversed(range(self.last)):
            if needed.intersection(self.targets(vertex)):
                needed.add(vertex)
        return reached & needed

    def pruned(self) -> ModuleGraph:
        """Without the vertices that no path from the input to the output comes by."""
        kept = sorted(self.used())
        return ModuleGraph(
            tuple(tuple(self.matrix[s][t] for t in kept) for s in kept),
            tuple(self.operations[v] for v in kept),
        )

    def widths(self, channels: int) -> list[int]:
        """Channels of each vertex of a pruned graph whose output has ``channels``.

        Those that the output reads share them, and the first have one more where they do not go
        evenly; any other has as many as the widest that reads it. The input's are not looked at.
        """
        sharing = [v for v in self.sources(self.last) if v]
        widths = [channels] * len(self.operations)
        for place, vertex in enumerate(sharing):
            each, more = divmod(channels, len(sharing))
            widths[vertex] = each + (place < more)
        for vertex in reversed(range(1, self.last)):
            if vertex not in sharing:
                widths[vertex] = max(widths[t] for t in self.targets(vertex))
        return widths

    def digest(self) -> str:
        """The benchmark's hash, the same for isomorphic graphs of what is left when pruned.

        A vertex begins with the MD5 of its edges out, edges in and number of its operation; as
        often as there are vertices, each becomes the MD5 of its sorted sources', its sorted
        targets' and its own. The graph's is that of all of them, sorted.
        """
        graph = self.pruned()
        numbers = [-1, *(OPERATIONS.index(o) for o in graph.operations[1:-1]), -2]
        vertices = range(len(numbers))
        sources, targets = ([f(v) for v in vertices] for f in (graph.sources, graph.targets))
        marks = [_md5(str((len(targets[v]), len(sources[v]), numbers[v]))) for v in vertices]
        for _ in vertices:
            around = [
                ["".join(sorted(marks[n] for n in near)) for near in (sources[v], targets[v])]
                for v in vertices
            ]
            marks = [_md5("|".join([*around[v], marks[v]])) for v in vertices]
        return _md5(str(sorted(marks)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
