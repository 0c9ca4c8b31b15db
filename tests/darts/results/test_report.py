from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from darts.cli import main
from darts.config import as_dict
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.recipes import configure
from darts.results.report import read_run, write_figures, write_report
from darts.results.run_folder import RunFolder
from darts.results.seeds import draw_seeds
from darts.spaces import get_space

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a page holds, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.references: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        self.ids[values.get("id") or ""] += 1
        self.references += [
            value for name, value in attrs if name in ("src", "href", "xlink:href") and value
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_run(
    path: Path, *, method: str = "edd", space: str = "nb201", seed: int = 0, finished: bool = True
) -> Path:
    table = get_space(space)
    config = configure(method=method, space=space, seed=seed, epochs=3)
    run = RunFolder.create(path, as_dict(config))
    torch.manual_seed(seed)
    for epoch in range(3):
        weights = {
            name: torch.randn(len(cell.edges), len(cell.candidates[0])).softmax(-1)
            for name, cell in table.cells.items()
        }
        genotype = str(table.derive(weights))
        record: dict[str, Any] = {
            "epoch": epoch,
            "temperature": 0.1**epoch,
            "entropy": 1.5 - epoch / 2,
            "weight_loss": 2.0,
            "weight_accuracy": 20.0,
            "arch_loss": 2.1,
            "arch_accuracy": 19.5,
            "discrete_accuracy": 15.0,
            "seconds": 2.0,
            "genotype": genotype,
            "weights": {name: beta.tolist() for name, beta in weights.items()},
            "gradient_norms": {name: [0.1] * len(beta) for name, beta in weights.items()},
        }
        if space == "nb201":
            record["nb201"] = {"cifar10": 93.12, "cifar100": 70.5, "imagenet16_120": 44.25}
        run.append(record)
    if finished:
        run.write_genotype(genotype)
    return path


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("space", ["nb201", "darts"])
def test_page_stands_alone_and_shows_everything(space: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", space=space)
    written = page(write_report([run], tmp_path / "page.html"))
    assert all(ref.startswith(("#", "data:image/png;base64,")) for ref in written.references)
    source = (tmp_path / "page.html").read_text()
    assert not re.search(r"@import|url\((?!#)|<script|<link", source)
    cells = get_space(space).cells
    assert written.tags["img"] == sum(len(cell.edges) for cell in cells.values())
    panels = 7 if space == "nb201" else 6
    assert written.tags["svg"] == panels + len(cells)
    assert str(read_run(run).genotype) in written.text
    assert "method: edd" in written.text
    assert max(count for name, count in written.ids.items() if name) == 1
    assert ("all-skip collapse" in written.text) == (space == "nb201")
    assert ("93.12 %" in written.text) == (space == "nb201")


def test_runs_are_compared_under_the_names_that_tell_them_apart(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", seed=0),
        make_run(tmp_path / "b", seed=1),
        make_run(tmp_path / "c", method="darts-v1", seed=1),
        make_run(tmp_path / "d", seed=1),
    ]
    written = page(write_report(runs, tmp_path / "page.html"))
    for name in ("edd, seed 0", "darts-v1, seed 1", "edd, seed 1 b", "edd, seed 1 d"):
        assert written.text.count(name) == 2
    assert written.tags["h2"] == 5


def test_unfinished_run_is_reported_as_such(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finished=False)
    assert "has not finished" in page(write_report([run], tmp_path / "page.html")).text


def test_text_from_the_run_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("source: digits", "source: <script>x</script>"))
    written = page(write_report([run], tmp_path / "page.html"))
    assert written.tags["script"] == 0
    assert "<script>x</script>" in written.text


def test_wrong_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        read_run(tmp_path)
    RunFolder.create(tmp_path / "other", {"genotype": "|none~0|"})
    with pytest.raises(UserError, match="is not the run folder of a search"):
        read_run(tmp_path / "other")
    RunFolder.create(tmp_path / "empty", as_dict(configure()))
    with pytest.raises(UserError, match="no epoch is finished"):
        write_report([tmp_path / "empty"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_figures_for_papers_are_written_in_both_formats(tmp_path: Path) -> None:
    paths = write_figures([make_run(tmp_path / "run")], tmp_path / "figures")
    names = {path.name for path in paths}
    assert {"temperature.png", "entropy.svg", "nb201.svg", "run1-cell.png"} <= names
    assert {path.suffix for path in paths} == {".png", ".svg"}
    assert all(path.stat().st_size > 1000 for path in paths)


def test_command_writes_into_the_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert main(["report", str(run), "--figures", str(tmp_path / "figures")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(run / "report.html")
    assert all(Path(line).exists() for line in lines)
    assert isinstance(read_run(run).genotype, Genotype)


def test_a_folder_of_runs_shows_seeds_as_mean_and_band(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for seed in range(3):
        make_run(study / "cells" / f"edd-seed{seed}", seed=seed)
    make_run(study / "cells" / "darts-v1-seed0", method="darts-v1")
    page = Page(write_report([study], tmp_path / "report.html").read_text())
    assert "4 architecture searches" in page.text
    assert "edd, nb201, digits, mean of 3 seeds" in page.text
    assert "93.12 ± 0.00 %" in page.text
    assert "mean of 1" not in page.text
    with pytest.raises(UserError, match="neither is a search's run folder nor holds one"):
        write_report([tmp_path / "cells"], tmp_path / "report.html")


def test_the_mean_and_the_band_are_those_of_the_seeds() -> None:
    logs: list[list[Any]] = [
        [{"epoch": e, "temperature": 1.0, "entropy": h * (e + 1)} for e in range(n)]
        for h, n in ((1.0, 3), (2.0, 3), (6.0, 2))
    ]
    for log in logs:
        for record in log:
            record["weights"] = {"cell": [[0.5, 0.5]]}
    axes = Figure().add_subplot()
    draw_seeds(axes, {"three": logs}, "entropy")
    (line,) = (line for line in axes.lines if line.get_label() == "three")
    assert np.asarray(line.get_ydata()).tolist() == [3.0, 6.0]
    corners = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert (corners[:, 1].min(), corners[:, 1].max()) == (1.0, 12.0)


def test_the_trained_networks_accuracy_is_in_the_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    genotype = (run / "genotype.txt").read_text().strip()
    for name, found, top1 in (("evaluation", genotype, [90.0, 92.0]), ("other", "|x|", [10.0])):
        folder = run / name
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"genotype": found, "top1": top1}))
    page = Page(write_report([run], tmp_path / "report.html").read_text())
    assert "trained, top-1" in page.text
    assert "91.00 ± 1.41 %" in page.text
    assert genotype in page.text


def test_heat_maps_are_as_high_as_their_operations_however_few_the_epochs(tmp_path: Path) -> None:
    page = write_report([make_run(tmp_path / "run")], tmp_path / "report.html").read_text()
    heights = re.findall(r'<div style="height: ([\d.]+)rem"><div class=ops>', page)
    assert heights == ["6.75"] * 6
