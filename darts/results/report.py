"""One self-contained HTML page about searches, and their figures as files for papers."""

from __future__ import annotations

import html
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from matplotlib.figure import Figure

from darts.benchmark.nb201 import DATASETS, PUBLISHED, TITLES
from darts.data.targets import KINDS, MEASURES
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.results.figures import APPEARANCE, Quantity, draw_trajectory, save
from darts.results.found import found
from darts.results.page import PAGE, STYLE, png, svg, table
from darts.results.run_folder import EpochRecord, RunFolder
from darts.results.seeds import draw_seeds
from darts.spaces import Space, get_space

_PANELS: dict[Quantity, str] = {
    "temperature": "The temperature t of β's softmax.",
    "entropy": "Expectation of the entropies of β over the edges (the paper's Fig. 4A).",
    "discrete_accuracy": "Accuracy of the architecture that each epoch would have ended with, "
    "pruned out of the supernet, on the architecture's half (the paper's Fig. 4B).",
    "nb201": "Accuracy, looked up in NAS-Bench-201, of that architecture.",
    "accuracy": "Accuracy (or all labels right, or R²) of the supernet on the two halves of the "
    "training images.",
    "loss": "Loss of the supernet on the two halves of the training images.",
    "gradient": "Norm of dL/dα, mean over the edges. Dotted: the first epoch in which β's mean "
    "entropy is under a tenth of a uniform β's, where ordinary softmax saturates (Eq. 7).",
}


SCORES = {"cross-entropy": "accuracy", "bce": "share with all labels right", "mse": "R²"}
"""What the log's accuracies are, by the loss."""


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
    trained: list[float]
    """Of the trainings from scratch in folders of the run, in percent on the test images."""
    measure: str
    """What `trained` is, a name of `darts.data.targets.MEASURES`."""

    @property
    def group(self) -> tuple[str, str]:
        """A name, and all that runs that differ in their seed alone share."""
        config = {k: v for k, v in self.config.items() if k not in ("seed", "out")}
        source = Path(str(config["data"]["source"])).stem
        return f"{config['method']}, {config['space']}, {source}", json.dumps(config)

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
    # A loss of the user's own may be of any labels; those of classes are the most common.
    measure = next((k.measures[0] for k in KINDS.values() if k.loss == _loss(config)), "top1")
    trained = _trained(path, genotype, measure)
    run = Run("", path, config, records, genotype, space, trained, measure)
    return replace(run, name=f"{run.group[0]}, seed {config['seed']}")


def _trained(path: Path, genotype: Genotype | None, measure: str) -> list[float]:
    """A measure of what was found, from the evaluations inside the run's folder."""
    results = [json.loads(file.read_text()) for file in sorted(path.glob("*/result.json"))]
    found = (result for result in results if result["genotype"] == str(genotype))
    return [float(value) for result in found for value in result.get(measure, [])]


def _loss(config: Mapping[str, Any]) -> str:
    """The loss of a run; older versions knew the cross-entropy alone."""
    return str(config["data"].get("loss", "cross-entropy"))


def searches(paths: Sequence[Path]) -> list[Path]:
    """The run folders among `paths`, and those inside the others, such as a study's folder.

    Raises:
        UserError: a folder neither is one nor holds one in which an epoch is finished.
    """
    found = []
    for path in paths:
        inside = [path]
        if not (path / "config.yaml").is_file():
            inside = [log.parent for log in sorted(path.rglob("log.jsonl")) if log.stat().st_size]
            inside = [p for p in inside if {"method", "space"} <= set(RunFolder.open(p).config)]
            if not inside:
                raise UserError(f"{path} neither is a search's run folder nor holds one.")
        found += inside
    return found


def write_report(paths: Sequence[Path], target: Path) -> Path:
    """Write the page about the runs in `paths` to `target`, whole or not at all.

    Raises:
        UserError: a folder is not usable.
    """
    runs = _named([read_run(path) for path in searches(paths)])
    page = PAGE.format(
        title=html.escape(runs[0].name if len(runs) == 1 else f"{len(runs)} architecture searches"),
        style=STYLE,
        body="\n".join([_overview(runs), _trajectories(runs), *map(_details, runs)]),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    return RunFolder(target.parent).write_text(target.name, page)


def write_figures(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write every trajectory and cell as PNG and SVG files into `folder`; gives their paths."""
    runs = _named([read_run(path) for path in searches(paths)])
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
    trained = any(run.trained for run in runs)
    first = ", ".join(sorted({MEASURES[run.measure] for run in runs if run.trained}))
    head = ["run", *([f"trained, {first}"] if trained else []), *head]
    head += ["pruned", "supernet", "mean H(β)", "final t", "epochs", "architecture"]
    rows = []
    for run in runs:
        last = run.last
        accuracy = last.get("arch_accuracy")
        found = last.get("nb201", {})
        cells = [f"<b>{found[name]:.2f} %</b>" if found else "–" for name in DATASETS]
        pruned = last.get("discrete_accuracy")
        measured = [
            "–" if pruned is None else f"{pruned:.1f} %",
            "–" if accuracy is None else f"{accuracy:.1f} %",
            f"{last['entropy']:.3f}",
            f"{last['temperature']:.3g}",
            f"{len(run.records)} of {run.config['epochs']}",
        ]
        cells = [
            *([_spread(run.trained)] if trained else []),
            *(cells if looked_up else []),
            *measured,
        ]
        cells.append(f"<code>{html.escape(str(run.genotype))}</code>" if run.genotype else "–")
        rows.append((html.escape(run.name), cells))
    rows += _over_seeds(runs, trained, looked_up)
    for name, values in PUBLISHED.items() if looked_up else ():
        cells = [f"{values[dataset]:.2f} %" for dataset in DATASETS]
        rows.append((f"<i>{html.escape(name)}</i>", [*([""] if trained else []), *cells]))
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} architecture searches"
    seconds = sum(record["seconds"] for run in runs for record in run.records)
    scores = {SCORES.get(_loss(run.config), "score") for run in runs}
    note = (
        f"Pruned and supernet: {', '.join(sorted(scores))} on the architecture's half of the "
        "training images. "
    )
    if trained:
        note += "Trained: on the test images, from scratch. "
    if looked_up:
        note += (
            "Test accuracies of found architectures are NAS-Bench-201's means after 200 epochs; "
            "optimum, ResNet, random search and all-skip collapse are published values."
        )
    return (
        f"<h1>{html.escape(title)}</h1>\n"
        f"<p class=lead>{_duration(seconds)} of search in "
        f"{sum(len(run.records) for run in runs)} epochs.</p>\n{table(head, rows)}\n"
        f"<p class=note>{note}</p>"
    )


def _over_seeds(runs: Sequence[Run], trained: bool, looked_up: bool) -> list[tuple[str, list[str]]]:
    """Mean and sample standard deviation of each group of runs that differ in their seed alone."""
    rows = []
    for name, members in _groups(runs):
        if len(members) < 2:
            continue
        cells = [_spread([a for run in members for a in run.trained])] if trained else []
        if looked_up:
            known = [run.last["nb201"] for run in members if "nb201" in run.last]
            cells += [_spread([row[dataset] for row in known]) for dataset in DATASETS]
        for field in ("discrete_accuracy", "arch_accuracy"):
            cells.append(_spread([run.last[field] for run in members if field in run.last]))
        rows.append((f"<i>{html.escape(name)}, mean of {len(members)} seeds</i>", cells))
    return rows


def _spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation in percent."""
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation} %"


def _trajectories(runs: Sequence[Run]) -> str:
    panels = []
    for quantity in _shown(runs):
        caption = html.escape(_PANELS[quantity])
        drawing = svg(_panel(runs, quantity))
        panels.append(f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>")
    return f"<h2>Trajectories</h2>\n<div class=grid>{''.join(panels)}</div>"


def _shown(runs: Sequence[Run]) -> list[Quantity]:
    return [quantity for quantity in _PANELS if any(run.has(quantity) for run in runs)]


def _panel(runs: Sequence[Run], quantity: Quantity) -> Figure:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    shown = [run for run in runs if run.has(quantity)]
    if len(_groups(shown)) < len(shown):
        groups = {name: [run.records for run in members] for name, members in _groups(shown)}
        draw_seeds(figure.add_subplot(), groups, quantity)
        return figure
    chosen = {run.name if len(runs) > 1 else "": run.records for run in shown}
    draw_trajectory(figure.add_subplot(), chosen, quantity)
    return figure


def _groups(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs that differ in their seed alone, under one name."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    names = [name for name, _ in groups]
    found = []
    for (name, _), members in groups.items():
        if names.count(name) > 1:  # a study's cells are told apart by their folders
            name = re.sub(r"-seed\d+$", "", members[0].folder.name)
        found.append((name, members))
    return found


def _details(run: Run) -> str:
    """One run's cells, weights over time and configuration."""
    parts = [f"<section><h2>{html.escape(run.name)}</h2>"]
    if run.genotype:
        figures = "".join(f"<figure>{svg(figure)}</figure>" for figure in _cells(run).values())
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
    for name, draw in found(run.genotype).items() if run.genotype else ():
        figures[name] = Figure(figsize=(7.6, 3.6), layout="constrained")
        draw(figures[name].add_subplot())
    return figures


def _heat_maps(run: Run, cell: str) -> str:
    """β of each edge over the epochs: one row of pixels an operation, one column an epoch."""
    edges = run.space.cells[cell]
    maps = []
    for edge, candidates in enumerate(edges.candidates):
        values = np.array([record["weights"][cell][edge] for record in run.records]).T
        names = [APPEARANCE.get(name, (name, ""))[0] for name in candidates]
        labels = "".join(f"<span>{html.escape(name)}</span>" for name in names)
        strongest = f"{names[int(values[:, -1].argmax())]} {values[:, -1].max():.2f}"
        maps.append(
            f"<figure class=beta><figcaption>{edges.label(edge)}: {html.escape(strongest)}"
            f'</figcaption><div style="height: {1.35 * len(names):.2f}rem">'
            f"<div class=ops>{labels}</div>"
            f'<img alt="β of {edges.label(edge)} over the epochs" src="{png(values)}">'
            "</div></figure>"
        )
    heading = "" if cell == "cell" else f"<h4>{html.escape(cell)} {run.space.around.unit}</h4>"
    return f"{heading}<div class=betas>{''.join(maps)}</div>"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
