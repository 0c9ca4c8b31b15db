from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from darts.cli import main
from darts.errors import UserError
from darts.run_folder import RunFolder
from darts.study import Cell, Study, markdown, read_study, run_cell, run_on_ray, run_study, table

BASE = {
    "epochs": 2,
    "data": {"batch_size": 64},
    "supernet": {"channels": 4, "cells": 1},
    "checkpoint_minutes": 0.0001,
}


def write(folder: Path, **changes: Any) -> Path:
    tree = {
        "out": str(folder / "study"),
        "base": BASE,
        "methods": ["edd", "darts-v1"],
        "seeds": [0, 1],
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
    return path


def pretend(cell: Cell, accuracy: float = 90.0) -> bool:
    """What a search leaves behind."""
    run = RunFolder.create(cell.folder, cell.config)
    looked_up = {"cifar10": accuracy + cell.seed, "cifar100": 70.0, "imagenet16_120": 40.0}
    run.append({"epoch": 0, "entropy": 0.5, "arch_accuracy": 60.0, "nb201": looked_up})
    run.write_genotype("|none~0|")
    run.write_weights({})
    return True


def test_cells_are_all_combinations(tmp_path: Path) -> None:
    settings = {"s100": {"options": {"sn": "s=100"}}, "st1": {"options": {"sn": "st=1"}}}
    study = read_study(write(tmp_path, methods=["edd"], settings=settings))
    assert [cell.folder.name for cell in study.cells] == [
        "edd-s100-seed0",
        "edd-s100-seed1",
        "edd-st1-seed0",
        "edd-st1-seed1",
    ]
    assert [cell.config["options"]["sn"] for cell in study.cells] == ["s=100"] * 2 + ["st=1"] * 2
    assert {cell.config["epochs"] for cell in study.cells} == {2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": ["edd"]}, "unknown key 'method'; did you mean 'methods'"),
        ({"seeds": None}, "seeds is missing"),
        ({"seeds": [1, 1]}, "seeds must be a list without repetitions"),
        ({"methods": "edd"}, "methods must be a list"),
        ({"methods": ["eddd"]}, "'eddd' is unknown"),
        ({"base": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"settings": {"a": {"options": {"lamb": 1}}}}, "'options.lamb'"),
    ],
)
def test_wrong_file_is_one_sentence(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(write(tmp_path, **changes))]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_finished_cells_are_never_run_again(tmp_path: Path) -> None:
    study = read_study(write(tmp_path))
    ran: list[str] = []

    def run(cell: Cell) -> bool:
        ran.append(cell.folder.name)
        return pretend(cell) if len(ran) != 3 else False

    with pytest.raises(UserError, match=r"1 cells are not finished \(darts-v1-seed0\)"):
        run_study(study, run=run, report=lambda line: None)
    rows = run_study(study, run=run, report=lambda line: None)
    assert ran == ["edd-seed0", "edd-seed1", "darts-v1-seed0", "darts-v1-seed1", "darts-v1-seed0"]
    assert run_study(study, run=run, report=lambda line: None) == rows
    assert len(ran) == 5
    assert json.loads((study.out / "table.json").read_text()) == rows


def test_changed_configuration_is_refused(tmp_path: Path) -> None:
    run_study(read_study(write(tmp_path)), run=pretend, report=lambda line: None)
    changed = read_study(write(tmp_path, base={**BASE, "epochs": 3}))
    with pytest.raises(UserError, match="was begun with another configuration: epochs was 2"):
        run_study(changed, run=pretend, report=lambda line: None)


def test_table_has_mean_deviation_and_the_honest_lines(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, seeds=[0, 1, 2]))
    for cell in study.cells[:4]:
        pretend(cell)
    rows = table(study)
    assert [(row["name"], row["finished"]) for row in rows] == [("edd", 3), ("darts-v1", 1)]
    assert rows[0]["nb201_cifar10"] == {"mean": 91.0, "std": 1.0}
    assert rows[1]["nb201_cifar10"] == {"mean": 90.0, "std": None}
    lines = markdown(rows).splitlines()
    assert (
        lines[2]
        == "| edd | 3/3 | 0.50 ± 0.00 | 60.00 ± 0.00 | 91.00 ± 1.00 | 70.00 ± 0.00 | 40.00 ± 0.00 |"
    )
    assert lines[3] == "| darts-v1 | 1/3 | 0.50 | 60.00 | 90.00 | 70.00 | 40.00 |"
    assert "| *all-skip collapse* | |  |  | 54.30 | 15.61 | 16.32 |" in lines


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, nearest first."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found += [child, *descendants(child)]
    return found


def kill_once(cell: Cell, *, name: str, done: threading.Event) -> threading.Thread:
    """Kill the first process below this one whose command holds `name`, once the cell has begun."""

    def watch() -> None:
        while not (cell.folder / "checkpoints").exists() and not done.is_set():
            time.sleep(0.005)
        for pid in descendants(os.getpid()):
            try:
                if name in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            except OSError:
                continue

    killed: list[int] = []
    thread = threading.Thread(target=watch)
    thread.killed = killed  # type: ignore[attr-defined]
    thread.start()
    return thread


def one_cell(folder: Path) -> Study:
    return read_study(write(folder, methods=["edd"], seeds=[0]))


@pytest.mark.slow
def test_killed_search_is_started_again_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    cell = one_cell(tmp_path).cells[0]
    done = threading.Event()
    thread = kill_once(cell, name="--config", done=done)
    try:
        assert run_cell(cell)
    finally:
        done.set()
        thread.join()
    assert thread.killed  # type: ignore[attr-defined]
    assert cell.finished
    assert len(RunFolder.open(cell.folder).records()) == 2


@pytest.mark.slow
def test_ray_replaces_a_killed_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    study = one_cell(tmp_path)
    done = threading.Event()
    run = run_on_ray("")
    thread = kill_once(study.cells[0], name="ray::there", done=done)
    try:
        rows = run_study(study, run=run, report=lambda line: None)
    finally:
        done.set()
        thread.join()
        ray.shutdown()
    assert thread.killed  # type: ignore[attr-defined]
    assert rows[0]["finished"] == 1
    assert len(RunFolder.open(study.cells[0].folder).records()) == 2
