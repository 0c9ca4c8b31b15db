"""NAS-Bench-101's cells as graphs."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from darts.networks.module_graph import MOST_EDGES, OPERATIONS, ModuleGraph

CONV3, CONV1, POOL = OPERATIONS


def graph(edges: str, *inner: str) -> ModuleGraph:
    """`edges` like "01 12" between vertices."""
    pairs = {(int(edge[0]), int(edge[1])) for edge in edges.split()}
    count = len(inner) + 2
    matrix = tuple(tuple(int((s, t) in pairs) for t in range(count)) for s in range(count))
    return ModuleGraph(matrix, ("input", *inner, "output"))


INCEPTION = graph("01 02 03 05 16 26 34 46 56", CONV1, CONV3, CONV3, CONV3, POOL)
"""The example of the benchmark's notebook."""


@st.composite
def graphs(draw: st.DrawFn) -> ModuleGraph:
    count = draw(st.integers(2, 7))
    inner = draw(st.lists(st.sampled_from(OPERATIONS), min_size=count - 2, max_size=count - 2))
    pairs = list(itertools.combinations(range(count), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1, max_size=MOST_EDGES))
    found = graph(" ".join(f"{a}{b}" for a, b in edges), *inner)
    assume({0, found.last} <= found.used())
    return found


@settings(max_examples=40)
@given(graphs())
def test_text_round_trip(found: ModuleGraph) -> None:
    assert ModuleGraph.parse(str(found)) == found


def test_text_is_what_the_benchmarks_package_takes() -> None:
    assert str(graph("01 12", POOL)) == (
        '{"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "maxpool3x3", "output"]}'
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not of the form"),
        ('{"matrix": [[0, 1], [0, 0]]}', "is not of the form"),
        ('{"matrix": 3, "ops": []}', "is not of the form"),
        ('{"matrix": [[0, 1]], "ops": ["input", "output"]}', "must have a square matrix"),
        ('{"matrix": [[0]], "ops": ["input"]}', "must have 2 to 7 ops, not 1"),
        (str(graph("07", *[POOL] * 6)), "must have 2 to 7 ops, not 8"),
        ('{"matrix": [[0, 2], [0, 0]], "ops": ["input", "output"]}', "neither 0 nor 1"),
        ('{"matrix": [[0, true], [0, 0]], "ops": ["input", "output"]}', "neither 0 nor 1"),
        ('{"matrix": [[0, 1], [1, 0]], "ops": ["input", "output"]}', "must be upper triangular"),
        ('{"matrix": [[0, 1], [0, 0]], "ops": ["output", "input"]}', "from 'input' to 'output'"),
        (str(graph("01 12", "conv5x5")), "has the op 'conv5x5', which is none of conv3x3-bn-relu"),
        (str(graph("01 23", POOL, POOL)), "does not depend on its input"),
        (
            str(graph("01 02 03 12 13 14 23 24 34 04", CONV1, CONV1, CONV1)),
            "must have at most 9 edges between its input and output, not 10",
        ),
    ],
)
def test_what_is_no_cell_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ModuleGraph.parse(text)


def test_what_does_not_lead_from_input_to_output_is_cut_off() -> None:
    """Vertex 2 leads nowhere, and vertex 3 comes from nowhere."""
    assert graph("01 02 14 34", CONV3, POOL, CONV1).pruned() == graph("01 12", CONV3)
    assert INCEPTION.pruned() == INCEPTION
    # Ten edges, of which two are on no path.
    loose = graph("01 02 03 16 26 34 46 06 05 15", CONV1, CONV3, CONV3, CONV3, POOL)
    assert ModuleGraph.parse(str(loose)) == loose
    assert sum(map(sum, loose.pruned().matrix)) == 8


@pytest.mark.parametrize(
    ("edges", "nodes", "channels", "expected"),
    [
        ("01 12 23", 2, 16, [16, 16, 16]),
        ("01 02 13 23", 2, 15, [8, 7, 15]),
        ("01 02 03 14 24 34", 3, 8, [3, 3, 2, 8]),
        ("01 12 13 24 34", 3, 9, [5, 5, 4, 9]),
        ("01 03 12 14 23 34", 3, 8, [4, 4, 4, 8]),
        ("01 02 13 23 34", 3, 8, [8, 8, 8, 8]),
    ],
)
def test_widths_are_the_benchmarks(
    edges: str, nodes: int, channels: int, expected: list[int]
) -> None:
    """Those of its test of compute_vertex_channels."""
    assert graph(edges, *[CONV1] * nodes).widths(channels)[1:] == expected


@settings(max_examples=40)
@given(graphs(), st.integers(5, 40))
def test_what_the_output_reads_has_its_channels(found: ModuleGraph, channels: int) -> None:
    found = found.pruned()
    widths = found.widths(channels)
    beside = [widths[s] for s in found.sources(found.last) if s]
    assert sum(beside) == (channels if beside else 0)
    for target in range(1, found.last):
        assert all(widths[s] >= widths[target] for s in found.sources(target) if s)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (graph("01"), "043721b9c7fe8c5fad811d47d83132ec"),
        (graph("01 12", POOL), "53cee42601ad14d661bb6878031d6acb"),
        (graph("01 02 03 14 24 34 12 13 23", *OPERATIONS), "997848c019fed76cadfca556024d05f9"),
        (INCEPTION, "28cfc7874f6d200472e1a9dcd8650aa0"),
    ],
)
def test_hash_is_the_benchmarks(found: ModuleGraph, expected: str) -> None:
    """What hash_spec of its package gives, with which 14,412 random cells agreed too."""
    assert found.digest() == expected


@settings(max_examples=40)
@given(graphs(), st.randoms(use_true_random=False))
def test_isomorphic_cells_have_one_hash(found: ModuleGraph, random: object) -> None:
    """Vertices in another order that is one of the graph's, and some that lead nowhere."""
    found = found.pruned()
    order, left = [0], list(range(1, found.last))
    random.shuffle(left)  # type: ignore[attr-defined]
    while left:
        free = next(v for v in left if set(found.sources(v)) <= set(order))
        order.append(free)
        left.remove(free)
    order.append(found.last)
    moved = ModuleGraph(
        tuple(tuple(found.matrix[s][t] for t in order) for s in order),
        tuple(found.operations[v] for v in order),
    )
    assert moved.digest() == found.digest()
    assert to_other(found).digest() != found.digest()


def to_other(found: ModuleGraph) -> ModuleGraph:
    """Another cell: one edge more, or one operation changed."""
    if not found.matrix[0][found.last]:
        first = (*found.matrix[0][:-1], 1)
        return found._replace(matrix=(first, *found.matrix[1:]))
    if found.last == 1:
        return graph("01 12", POOL)
    changed = OPERATIONS[OPERATIONS.index(found.operations[1]) - 1]
    return found._replace(operations=("input", changed, *found.operations[2:]))
