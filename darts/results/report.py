"""One self-contained HTML page about searches, and their figures as files for papers."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave

from darts.benchmark.nb201 import DATASETS, PUBLISHED, TITLES
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.results.figures import APPEARANCE, Quantity, draw_cell, draw_trajectory, save
from darts.results.run_folder import EpochRecord, RunFolder
from darts.spaces import Space, get_space

_PANELS: dict[Quantity, str] = {
    "temperature": "The temperature t of β's softmax.",
    "entropy": "Expectation of the entropies of β over the edges (the paper's Fig. 4A).",
    "discrete_accuracy": "Accuracy of the architecture that each epoch would have ended with, "
    "pruned out of the supernet, on the architecture's half (the paper's Fig. 4B).",
    "nb201": "Accuracy, looked up in NAS-Bench-201, of that architecture.",
    "accuracy": "Accuracy of the supernet on the two halves of the training images.",
    "loss": "Cross-entropy of the supernet on the two halves of the training images.",
    "gradient": "Norm of dL/dα, mean over the edges. Dotted: the first epoch in which β's mean "
    "entropy is under a tenth of a uniform β's, where ordinary softmax saturates (Eq. 7).",
}


@dataclass(frozen=True)
class Run:
    """What a run folder says."""

    name: str
    folder: Path
    config: dict[str, Any]
    records: list[EpochRecord]
    genotype: Genotype | None
    """None while the search has not finished."""
    space: Space

    @property
    def last(self) -> EpochRecord:
        """The newest epoch."""
        return self.records[-1]

    def has(self, quantity: Quantity) -> bool:
        """Whether the log knows the quantity."""
        field = {"loss": "weight_loss", "accuracy": "weight_accuracy", "gradient": "gradient_norms"}
        return any(field.get(quantity, quantity) in record for record in self.records)


def read_run(path: Path) -> Run:
    """Read a search's run folder.

    Raises:
        UserError: it is no run folder of a search, or no epoch is finished.
    """
    folder = RunFolder.open(path)
    config = folder.config
    if not {"method", "space", "seed", "data"} <= set(config):
        raise UserError(f"{path} is not the run folder of a search.")
    records = cast("list[EpochRecord]", folder.records())
    if not records:
        raise UserError(f"{path}: no epoch is finished, so there is nothing to report.")
    space = get_space(config["space"])  # first: its module may register operations
    file = path / "genotype.txt"
    genotype = Genotype.parse(file.read_text(encoding="utf-8")) if file.is_file() else None
    source = Path(str(config["data"]["source"])).stem
    name = f"{config['method']}, {config['space']}, {source}, seed {config['seed']}"
    return Run(name, path, config, records, genotype, space)


def write_report(paths: Sequence[Path], target: Path) -> Path:
    """Write the page about the runs in `paths` to `target`, whole or not at all.

    Raises:
        UserError: a folder is not usable.
    """
    runs = _named([read_run(path) for path in paths])
    page = _PAGE.format(
        title=html.escape(runs[0].name if len(runs) == 1 else f"{len(runs)} architecture searches"),
        style=_STYLE,
        body="\n".join([_overview(runs), _trajectories(runs), *map(_details, runs)]),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    return RunFolder(target.parent).write_text(target.name, page)


def write_figures(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write every trajectory and cell as PNG and SVG files into `folder`; gives their paths."""
    runs = _named([read_run(path) for path in paths])
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {f"{quantity}": _panel(runs, quantity) for quantity in _shown(runs)}
    for number, run in enumerate(runs, start=1):
        for name, figure in _cells(run).items():
            drawings[f"run{number}-{name}"] = figure
    return [
        save(figure, folder / f"{name}.{suffix}")
        for name, figure in drawings.items()
        for suffix in ("png", "svg")
    ]


def _named(runs: list[Run]) -> list[Run]:
    """Runs named by what tells them apart; by their folders too where nothing else does."""
    if len(runs) == 1:
        return runs
    parts = [run.name.split(", ") for run in runs]
    telling = [place for place in range(len(parts[0])) if len({p[place] for p in parts}) > 1]
    names = [", ".join(p[place] for place in telling) for p in parts]
    return [
        replace(run, name=name if names.count(name) == 1 else f"{name} {run.folder.name}".strip())
        for run, name in zip(runs, names, strict=True)
    ]


def _overview(runs: Sequence[Run]) -> str:
    """Heading and the table of verdicts."""
    looked_up = any("nb201" in run.last for run in runs)
    head = [TITLES[name] for name in DATASETS] if looked_up else []
    head = ["run", *head, "final t", "mean H(β)", "supernet, arch half", "epochs"]
    rows = []
    for run in runs:
        last = run.last
        accuracy = last.get("arch_accuracy")
        found = last.get("nb201", {})
        cells = [f"<b>{found[name]:.2f} %</b>" if found else "–" for name in DATASETS]
        measured = [
            f"{last['temperature']:.3g}",
            f"{last['entropy']:.3f}",
            "–" if accuracy is None else f"{accuracy:.1f} %",
            f"{len(run.records)} of {run.config['epochs']}",
        ]
        rows.append((html.escape(run.name), [*(cells if looked_up else []), *measured]))
    for name, values in PUBLISHED.items() if looked_up else ():
        cells = [f"{values[dataset]:.2f} %" for dataset in DATASETS]
        rows.append((f"<i>{html.escape(name)}</i>", cells))
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} architecture searches"
    seconds = sum(record["seconds"] for run in runs for record in run.records)
    note = (
        "<p class=note>Test accuracies. Those of found architectures are NAS-Bench-201's means "
        "after 200 epochs; optimum, ResNet, random search and all-skip collapse are published "
        "values.</p>"
        if looked_up
        else ""
    )
    return (
        f"<h1>{html.escape(title)}</h1>\n"
        f"<p class=lead>{_duration(seconds)} of search in "
        f"{sum(len(run.records) for run in runs)} epochs.</p>\n{_table(head, rows)}\n{note}"
    )


def _trajectories(runs: Sequence[Run]) -> str:
    panels = []
    for quantity in _shown(runs):
        caption = html.escape(_PANELS[quantity])
        svg = _svg(_panel(runs, quantity))
        panels.append(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>")
    return f"<h2>Trajectories</h2>\n<div class=grid>{''.join(panels)}</div>"


def _shown(runs: Sequence[Run]) -> list[Quantity]:
    return [quantity for quantity in _PANELS if any(run.has(quantity) for run in runs)]


def _panel(runs: Sequence[Run], quantity: Quantity) -> Figure:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    chosen = {run.name if len(runs) > 1 else "": run.records for run in runs if run.has(quantity)}
    draw_trajectory(figure.add_subplot(), chosen, quantity)
    return figure


def _details(run: Run) -> str:
    """One run's cells, weights over time and configuration."""
    parts = [f"<section><h2>{html.escape(run.name)}</h2>"]
    if run.genotype:
        figures = "".join(f"<figure>{_svg(figure)}</figure>" for figure in _cells(run).values())
        parts.append(f"<div class=cells>{figures}</div>")
        parts.append(f"<pre class=genotype>{html.escape(str(run.genotype))}</pre>")
    else:
        parts.append("<p>The search has not finished.</p>")
    if "weights" in run.last:
        parts.append(
            f"<h3>β of each edge, epochs 1 to {len(run.records)} from left to right</h3>"
            f"<p class=note>White is 0, dark blue is 1.</p>"
        )
        parts += [_heat_maps(run, cell) for cell in run.space.cells]
    settings = html.escape(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
    parts.append(f"<details><summary>Configuration</summary><pre>{settings}</pre></details>")
    return "\n".join([*parts, "</section>"])


def _cells(run: Run) -> dict[str, Figure]:
    figures = {}
    for name, choices in run.genotype.cells if run.genotype else ():
        figures[name] = Figure(figsize=(7.6, 3.6), layout="constrained")
        title = "Found cell" if name == "cell" else f"Found {name} cell"
        draw_cell(figures[name].add_subplot(), choices, title=title)
    return figures


def _heat_maps(run: Run, cell: str) -> str:
    """β of each edge over the epochs: one row of pixels an operation, one column an epoch."""
    table = run.space.cells[cell]
    maps = []
    for edge, ((source, target), candidates) in enumerate(
        zip(table.edges, table.candidates, strict=True)
    ):
        values = np.array([record["weights"][cell][edge] for record in run.records]).T
        names = [APPEARANCE.get(name, (name, ""))[0] for name in candidates]
        labels = "".join(f"<span>{html.escape(name)}</span>" for name in names)
        strongest = f"{names[int(values[:, -1].argmax())]} {values[:, -1].max():.2f}"
        maps.append(
            f"<figure class=beta><figcaption>{source} → {target}: {html.escape(strongest)}"
            f"</figcaption><div><div class=ops>{labels}</div>"
            f'<img alt="β of edge {source} to {target} over the epochs" src="{_png(values)}">'
            "</div></figure>"
        )
    heading = "" if cell == "cell" else f"<h4>{html.escape(cell)} cell</h4>"
    return f"{heading}<div class=betas>{''.join(maps)}</div>"


def _png(values: Any) -> str:
    """A matrix of values in [0, 1] as an image of one pixel an entry, in a data URL."""
    buffer = io.BytesIO()
    imsave(buffer, values, cmap=colormaps["Blues"], vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _svg(figure: Figure) -> str:
    """A figure as an SVG element that scales with its column."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Identifiers must differ between the figures of one page.
    digest = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{digest}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{digest}-", text)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r' height="[^"]*pt"', "", text, count=1)
    )


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<div class=scroll><table><tr>{names}</tr>{body}</table></div>"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body {
  margin: 0; background: #fff; color: #24292f; line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 8px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 40px 0 12px; padding-top: 12px; border-top: 1px solid #d0d7de; }
h3 { font-size: 1rem; margin: 24px 0 4px; }
h4 { font-size: .95rem; margin: 16px 0 4px; }
.lead, .note, figcaption { color: #57606a; }
.note, figcaption { font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td {
  padding: 6px 12px; text-align: right; border-bottom: 1px solid #e7ecf1; white-space: nowrap;
}
th:first-child { text-align: left; font-weight: 500; white-space: normal; min-width: 8rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
.grid, .cells, .betas { display: grid; gap: 16px 24px; }
.grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
.cells { grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
.cells figure { overflow-x: auto; }
.cells figure:only-child { max-width: 760px; }
.cells svg { min-width: 520px; }
.betas { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.beta > div { display: flex; border: 1px solid #d0d7de; }
.beta .ops { display: flex; flex-direction: column; flex: 0 0 5.2rem; font-size: .75rem; }
.beta .ops span { flex: 1 1 1.35rem; padding: 0 6px; display: flex; align-items: center; }
.beta img { flex: 1 1 0; min-width: 0; image-rendering: pixelated; }
pre { background: #f6f8fa; padding: 12px; font-size: .8rem; overflow-x: auto; }
.genotype { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 16px; }
@media (max-width: 640px) {
  main { padding: 12px 14px 48px; }
  th, td { padding: 6px 8px; }
}
"""
