"""What is asked of a GPU is read off the tree."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from bench.gpu import tasks
from darts.study import read_study

ROOT = Path(__file__).resolve().parents[3]
KERNELS = [
    name
    for name in dict.fromkeys(
        line.split("/")[0]
        for line in (ROOT / "csrc/sources.txt").read_text().splitlines()
        if line.endswith(".cu")
    )
    if any(f"{name}/{name}.h" in p.read_text() for p in (ROOT / "csrc/torch").rglob("*.cpp"))
]
"""What is compiled for a GPU, less what no operator launches yet."""


def device_tests(path: Path) -> list[str]:
    """Names of a file's tests that ask for the fixture `cuda`."""
    functions = [f for f in ast.walk(ast.parse(path.read_text())) if isinstance(f, ast.FunctionDef)]
    return [f.name for f in functions if "cuda" in [a.arg for a in f.args.args]]


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_watched(
    kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By device tests of its own, under each tool."""
    monkeypatch.setattr(tasks, "compute_sanitizer", lambda: "compute-sanitizer")
    every = {task.name: task for task in tasks.tasks(tmp_path, tmp_path, "state", lambda _: None)}
    for tool in ("memcheck", "racecheck", "synccheck"):
        command = every[f"{tool} {kernel}"].command
        files = [ROOT / part for part in command if part.startswith("tests/")]
        assert any(device_tests(path) for path in files)
        launched = [part for path in files for part in path.read_text().split() if kernel in part]
        assert launched


def test_a_new_kernel_is_found_when_an_operator_launches_it(tmp_path: Path) -> None:
    for folder in ("kernels", "torch"):
        shutil.copytree(ROOT / "csrc" / folder, tmp_path / "csrc" / folder)
    assert tasks.kernels(tmp_path) == sorted(KERNELS)
    for name, text in (("kernels/thing/thing_cuda.cu", ""), ("torch/a.cpp", "")):
        (tmp_path / "csrc" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "csrc" / name).write_text(text)
    assert tasks.kernels(tmp_path) == sorted(KERNELS)
    (tmp_path / "csrc/torch/a.cpp").write_text('#include "thing/thing.h"')
    assert tasks.kernels(tmp_path) == sorted([*KERNELS, "thing"])


def test_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "compute_sanitizer", lambda: "compute-sanitizer")
    monkeypatch.setattr(tasks, "lacks", lambda _: None)
    names = [task.name for task in tasks.tasks(tmp_path, tmp_path, "state", lambda _: None)]
    kinds = list(dict.fromkeys(name.split()[0] for name in names))
    checks = ["memcheck", "racecheck", "synccheck"]
    assert kinds == ["tests", *checks, "step", "search", "operator", "study"]
    studies = sorted(path.stem for path in (ROOT / "studies").glob("*.yaml"))
    assert [name.split()[1] for name in names if name.startswith("study")] == studies


def test_what_is_lacking_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "compute_sanitizer", lambda: None)
    monkeypatch.setattr(tasks, "lacks", lambda _: Path("data/nb201.csv.gz"))
    lines: list[str] = []
    names = [task.name for task in tasks.tasks(tmp_path, tmp_path, "state", lines.append)]
    assert names == ["tests", "step", "search", "operator"]
    assert "== compute-sanitizer is not installed; its tasks are left out" in lines
    assert "== study table1: left out, there is no data/nb201.csv.gz" in lines


def test_a_study_lacks_the_first_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    study = read_study(ROOT / "studies/table1.yaml", "full")
    for name in ("data/nb201.csv.gz", "data/nb201_cifar10_split.json.gz"):
        assert tasks.lacks(study) == Path(name)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert tasks.lacks(study) is None
    assert tasks.unfinished(study) == len(study.cells)


def test_the_state_changes_with_any_source(tmp_path: Path) -> None:
    for name in ("csrc/kernels/a.cu", "darts/a.py", "setup.py", "studies/a.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "darts/a.pyc").write_text("1")
    seen = {tasks.state("GPU", tmp_path), tasks.state("another", tmp_path)}
    for path in sorted(tmp_path.rglob("*.*")):
        path.write_text("2")
        seen.add(tasks.state("GPU", tmp_path))
    assert len(seen) == 2 + 4
