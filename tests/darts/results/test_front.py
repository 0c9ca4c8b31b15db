"""The table and the figure of a front."""

import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from darts.results.front import Front, Point


def made(pairs: list[tuple[float, float]]) -> Front:
    points = tuple(Point(cost * 1.1, cost, acc, "", str(i)) for i, (cost, acc) in enumerate(pairs))
    return Front("parameters", "accuracy (%)", points)


def test_dominated_ones() -> None:
    front = made([(1, 50), (2, 40), (3, 60), (3, 60), (4, 60), (5, 70)])
    assert front.dominated() == [False, True, False, False, True, False]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=8))
def test_what_is_left_rises(pairs: list[tuple[int, int]]) -> None:
    front = made([(float(cost), float(accuracy)) for cost, accuracy in pairs])
    kept = {p for p, beaten in zip(pairs, front.dominated(), strict=True) if not beaten}
    assert kept
    rising = sorted(kept)
    assert [a for _, a in rising] == sorted({a for _, a in rising})


def test_files_and_colours(tmp_path: Path) -> None:
    front = made([(20_000, 80.0), (1000, 50.0), (2000, 40.0)])
    paths = front.write(tmp_path)
    assert [path.name for path in paths] == ["front.json", "front.md", "front.png"]
    assert all(path.stat().st_size for path in paths)
    assert json.loads(paths[0].read_text())["points"][1]["accuracy"] == 50
    rows = paths[1].read_text().splitlines()
    assert rows[2:] == [
        "| 1,100 | 1,000 | 50.00 | 1 |",
        "| 2,200 | 2,000 | (40.00) | 2 |",
        "| 22,000 | 20,000 | 80.00 | 0 |",
    ]
    axes = Figure().subplots()
    front.draw(axes)
    dots = {
        float(np.asarray(line.get_xdata())[0]): line.get_color()
        for line in axes.lines
        if line.get_marker() == "o"
    }
    assert to_hex(dots[2000]) == "#b6bec6"
    assert dots[1000] == dots[20_000] != dots[2000]
