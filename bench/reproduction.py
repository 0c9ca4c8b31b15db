"""The paper's tables and figures from the cells of the studies that were run here.

``python -m bench.reproduction`` collects what is finished of every study's cpu profile into
``bench/results/study-NAME.json`` (a study without a finished cell keeps the file it has), and from
those files alone writes ``docs/results.md`` and the pictures in it.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.timing import RESULTS, write_json
from darts.benchmark.nb201 import PUBLISHED
from darts.networks.genotype import Genotype
from darts.results.figures import PALETTE, prepare
from darts.results.found import draw_cell
from darts.study import markdown, read_study, table

PROFILE = "cpu"
STUDIES = (
    "table1",
    "table5",
    "table7",
    "edd-at-scale",
    "figure4",
    "figure2",
    "methods",
    "table2",
    "table3",
    "table4",
    "table6",
)
"""In the order of the page: those that say something first, those that prove the pipeline last."""
PAGE = Path("docs/results.md")
IMAGES = Path("docs/images")
SOFTMAX, ST1, S100 = (
    [f"{kind}, λ = {lam}" for lam in ("0.06", "0.12", "0.24")]
    for kind in ("softmax", "st ≡ 1", "s = 100")
)
PAIRS: Mapping[str, Sequence[tuple[str, str]]] = {
    "table1": [
        ("EDD-DARTS", ""),
        ("EDD-DARTS without none", "DARTS-V1 without none"),
        ("EDD-DARTS without none", "GAEA-ERM without none"),
    ],
    "table5": [*zip(ST1, SOFTMAX, strict=True), *zip(S100, SOFTMAX, strict=True)],
    "table7": [
        (f"EDD-DARTS, {images}", f"PCD-DARTS, {images}") for images in ("CIFAR-10 subset", "digits")
    ],
}
"""Rows of each study that are compared, seed by seed; an empty second name means all others."""
COMPARED = {"cifar10": "CIFAR-10 %", "discrete_accuracy": "pruned %"}
"""What they are compared in."""
HEAD = """# Results

Written by `python -m bench.reproduction` from `bench/results/study-*.json`;
[what they mean](reproduction.md) is written by hand.

Every table shows what was measured here beside the paper's value. The two are **not** at one
scale: in the studies of NAS-Bench-201 a search sees 5,170 images of CIFAR-10 (half for ω, half
for α) with a supernet of C=8, N=1 in bfloat16, 25 epochs of batch 32; the paper's sees all of
CIFAR-10 with C=16, N=5, 50 epochs. Accuracies are NAS-Bench-201's, of the architecture found,
trained for 200 epochs on the whole data set. ± is the sample deviation over seeds; H(β) the mean
entropy of the edges' β after the last epoch; "pruned" the accuracy, inside the supernet, of the
architecture that β means then (methods that select by trial, as `random` and `darts-pt`, end with
another one); s the processor time of the epochs, on the machine of the other benchmarks.

`edd-at-scale` has C=8, N=3 and 50 epochs. All others ran before two corrections, to the order in
which a sparse weight step on the CPU moved its kernels and to when the rate of ω changes; the
reading says [what they touch](reproduction.md#what-has-been-run-here).
"""


def collect() -> None:
    """Bring the committed results up to date with the cells on this disk."""
    for name in STUDIES:
        study = read_study(name, PROFILE)
        if any(cell.finished for cell in study.cells):
            write_json(RESULTS / f"study-{name}.json", table(study))


def load() -> dict[str, dict[str, Any]]:
    """The committed results by study."""
    files = {name: RESULTS / f"study-{name}.json" for name in STUDIES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def load_cost() -> dict[str, Any]:
    """The committed estimate of the full profiles' cost."""
    return dict(json.loads((RESULTS / "cost.json").read_text()))


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of a mean this far from 0 if each difference had either sign equally often.

    Exact: all 2^n signs are tried, so that p is at least 2^(1-n).
    """
    seen = abs(sum(differences))
    signs = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(flips, differences, strict=True))) for flips in signs]
    return sum(total >= seen - 1e-9 for total in sums) / len(sums)


def comparison(results: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    """Each pair of rows, seed by seed: mean difference, searches won and p, of two quantities."""
    runs = {row["name"]: {run["seed"]: run for run in row["runs"]} for row in results["rows"]}
    every = [
        (ours, theirs)
        for ours, named in pairs
        for theirs in ([named] if named else [name for name in runs if name != ours])
    ]
    titles = (f"{title} | wins | p" for title in COMPARED.values())
    lines = [f"| | against | seeds | {' | '.join(titles)} |"]
    lines.append("| --- | --- |" + " ---: |" * (1 + 3 * len(COMPARED)))
    for ours, theirs in every:
        both = sorted(runs[ours].keys() & runs[theirs].keys())
        if not both:
            continue
        line = f"| {ours} | {theirs} | {len(both)}"
        for field in COMPARED:
            differences = [runs[ours][seed][field] - runs[theirs][seed][field] for seed in both]
            wins = sum(difference > 0 for difference in differences)
            line += f" | {statistics.fmean(differences):+.2f} | {wins}/{len(both)}"
            line += f" | {sign_flip(differences):.2f}"
        lines.append(f"{line} |")
    return "\n".join(lines) + "\n"


def per_seed(results: Mapping[str, Any]) -> str:
    """CIFAR-10 test accuracy of every single search, and the median, which a collapse spares."""
    seeds = sorted({run["seed"] for row in results["rows"] for run in row["runs"]})
    lines = ["| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | median |"]
    lines.append("| --- |" + " ---: |" * (len(seeds) + 1))
    for row in results["rows"]:
        found = {run["seed"]: run["cifar10"] for run in row["runs"]}
        cells = [f"{found[seed]:.2f}" if seed in found else "–" for seed in seeds]
        cells.append(f"{statistics.median(found.values()):.2f}" if found else "–")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def full_scale(cost: Mapping[str, Any]) -> str:
    """What the full profiles take, as ``bench/results/cost.json`` has it."""
    lines = [
        "## What the full profiles cost\n",
        "From steps measured on the machine of the other benchmarks, in hours of its "
        f"{cost['machine']['threads']} CPU threads in float32 (`python -m bench.cost`):\n",
        "| study | searches | hours | trainings | hours |",
        "| --- |" + " ---: |" * 4,
    ]
    lines += [
        f"| {name} | {study['searches']} | {study['search_hours']:,.0f} | "
        f"{study['trainings']} | {study['training_hours']:,.0f} |"
        for name, study in cost["studies"].items()
    ]
    return "\n".join(lines) + "\n"


def page(all_results: Mapping[str, Mapping[str, Any]], cost: Mapping[str, Any]) -> str:
    """The text of docs/results.md."""
    parts = [HEAD]
    for name, results in all_results.items():
        command = (
            "<!-- not run: many searches of minutes each -->\n"
            f"```sh\npython -m darts study {name} --profile {PROFILE}\n```\n"
        )
        parts += [f"## {results['title']}\n", command]
        if name in DRAWN:
            parts.append(f"![{results['title']}](images/{name}-search.png)\n")
        if not name.startswith("figure"):
            parts.append(markdown(results))
        if name in PAIRS:
            parts += ["CIFAR-10 test accuracy of every search:\n", per_seed(results)]
            parts += [
                "Mean differences over the seeds that both have, with the exact p of a sign-flip "
                "test (with five seeds it is 0.06 at least):\n",
                comparison(results, PAIRS[name]),
            ]
    return "\n".join([*parts, full_scale(cost)])


def draw_middle(axes: Axes, runs: Sequence[Mapping[str, Any]], field: str, label: str) -> None:
    """Median over the runs that have an epoch; a shade over the middle half of them."""
    trajectories = [run["trajectory"][field] for run in runs if field in run["trajectory"]]
    columns = [
        [value for value in column if value is not None]
        for column in itertools.zip_longest(*trajectories)
    ]
    points = [(epoch, column) for epoch, column in enumerate(columns, start=1) if column]
    epochs = [epoch for epoch, _ in points]
    low, middle, high = np.transpose([np.percentile(col, (25, 50, 75)) for _, col in points])
    rounds, place = divmod(len(axes.lines), len(PALETTE))
    colour, dashes = PALETTE[place], "--" if rounds % 2 else "-"  # no two lines look the same
    axes.plot(epochs, middle, color=colour, label=label, linewidth=1.5, linestyle=dashes)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)


def figure4(results: Mapping[str, Any], path: Path) -> None:
    """A: entropy of β; B: accuracy of the pruned network; and NAS-Bench-201's verdict."""
    panels = {
        "entropy": "A. Mean entropy of β (nats)",
        "discrete_accuracy": "B. Accuracy of the pruned network (%)",
        "cifar10": "NAS-Bench-201, CIFAR-10 test (%), from 70 up",
    }
    figure, places = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axes, (field, title) in zip(places, panels.items(), strict=True):
        for row in results["rows"]:
            if row["runs"]:
                draw_middle(axes, row["runs"], field, row["name"])
        prepare(axes, title, "epoch")
    places[2].set_ylim(70, 95)
    places[2].axhline(PUBLISHED["optimum"]["cifar10"], color="#6e7781", linewidth=0.8, ls=":")
    handles, labels = places[0].get_legend_handles_labels()
    columns = min(8, max(1, 180 // max(map(len, labels), default=1)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    save(figure, path)


def overview(results: Mapping[str, Any], path: Path) -> None:
    """Figure 4B with names on its lines, and the cell of EDD's median search."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    rows = [row for row in results["rows"] if row["runs"] and "without" not in row["name"]]
    for row in rows:
        draw_middle(left, row["runs"], "discrete_accuracy", row["name"])
    prepare(left, "Accuracy of the network pruned out of the supernet (%)", "epoch")
    apart = 0.0
    for line in sorted(left.lines, key=lambda line: float(np.asarray(line.get_ydata())[-1])):
        x, y = (float(np.asarray(data)[-1]) for data in line.get_data())
        apart = max(y, apart)
        name, colour = str(line.get_label()), line.get_color()
        left.annotate(name, (x, y), (x + 0.5, apart), color=colour, va="center", fontsize=9)
        apart += 2.4
    (edd,) = (row for row in rows if row["name"] == "EDD-DARTS")
    runs = sorted(edd["runs"], key=lambda run: float(run["cifar10"]))
    middle = runs[len(runs) // 2]
    (cell,) = (choices for _, choices in Genotype.parse(middle["genotype"]).cells)
    draw_cell(right, cell, title=f"A cell of EDD's: {middle['cifar10']:.2f} % on CIFAR-10")
    save(figure, path)


def figure2(results: Mapping[str, Any], path: Path) -> None:
    """A: gradient of α while β saturates, for each s; B: entropy under ETS and under LTS."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for row in results["rows"]:
        if row["runs"] and "LTS" not in row["name"] and "ETS" not in row["name"]:
            draw_middle(left, row["runs"], "gradient", row["name"])
            draw_middle(middle, row["runs"], "entropy", row["name"])
        elif row["runs"]:
            draw_middle(right, row["runs"], "entropy", row["name"])
    prepare(left, "A. Norm of dL/dα, mean over edges", "epoch")
    left.set_yscale("log")
    prepare(middle, "Mean entropy of β (nats), the same searches", "epoch")
    prepare(right, "B. Mean entropy of β (nats), cyclic schedules", "epoch")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


DRAWN = {"figure4": figure4, "figure2": figure2, "edd-at-scale": figure4}
"""Which studies have a picture, and what draws it."""


def save(figure: Any, path: Path) -> None:
    """Write and close a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Collect, write the page, draw."""
    collect()
    results = load()
    PAGE.write_text(page(results, load_cost()), encoding="utf-8")
    for name, draw in DRAWN.items():
        if name in results:
            draw(results[name], IMAGES / f"{name}-search.png")
    if "figure4" in results:
        overview(results["figure4"], IMAGES / "overview.png")
    print(f"{PAGE}: {', '.join(results)}")


if __name__ == "__main__":
    main()
