"""A front: networks of several sizes, as one table and one figure of accuracy against cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from darts.files import write_text
from darts.results.figures import PALETTE, prepare, save


@dataclass(frozen=True)
class Point:
    """A network of the front."""

    limit: float
    """The bound that it was searched under."""
    cost: float
    accuracy: float
    """In percent."""
    genotype: str
    run: str
    """Run folder of the search, under the front's."""


@dataclass(frozen=True)
class Front:
    """Networks from as many budgets."""

    cost: str
    """What is bounded, with its unit."""
    accuracy: str
    """Which accuracy it is."""
    points: tuple[Point, ...]

    def dominated(self) -> list[bool]:
        """Of each network: whether another costs no more and is no worse, and better in one."""
        return [
            any(
                other.cost <= point.cost
                and other.accuracy >= point.accuracy
                and (other.cost < point.cost or other.accuracy > point.accuracy)
                for other in self.points
            )
            for point in self.points
        ]

    def table(self) -> str:
        """The networks in Markdown, from the cheapest; dominated ones in brackets."""
        rows = sorted(zip(self.points, self.dominated(), strict=True), key=lambda row: row[0].cost)
        lines = [f"| budget | {self.cost} | {self.accuracy} | run |", "| --- | --- | --- | --- |"]
        for point, beaten in rows:
            accuracy = f"({point.accuracy:.2f})" if beaten else f"{point.accuracy:.2f}"
            lines.append(
                f"| {_number(point.limit)} | {_number(point.cost)} | {accuracy} | {point.run} |"
            )
        return "\n".join(lines)

    def write(self, folder: Path) -> list[Path]:
        """`front.json`, `front.md` and `front.png` in `folder`; gives their paths."""
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        self.draw(figure.subplots())
        texts = {
            "front.json": json.dumps(asdict(self), indent=1) + "\n",
            "front.md": self.table() + "\n",
        }
        written = [write_text(folder / name, text) for name, text in texts.items()]
        return [*written, save(figure, folder / "front.png")]

    def draw(self, axes: Axes) -> None:
        """Accuracy against cost; dominated networks are grey, and a thin line is the budget."""
        prepare(axes, self.accuracy, self.cost)
        pairs = list(zip(self.points, self.dominated(), strict=True))
        best = sorted((p.cost, p.accuracy) for p, beaten in pairs if not beaten)
        axes.plot(*zip(*best, strict=True), color=PALETTE[0], linewidth=1.4, drawstyle="steps-post")
        for point, beaten in pairs:
            colour = "#b6bec6" if beaten else PALETTE[0]
            axes.plot(
                [point.cost, point.limit], [point.accuracy] * 2, ":", color=colour, linewidth=1
            )
            axes.plot(point.limit, point.accuracy, "|", color=colour, markersize=9)
            axes.plot(point.cost, point.accuracy, "o", color=colour, markersize=7)


def _number(value: float) -> str:
    """Counts in whole numbers, milliseconds to the microsecond."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"
