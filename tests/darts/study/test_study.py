from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from darts.cli import main
from darts.errors import UserError
from darts.results.run_folder import RunFolder
from darts.study import Cell, Study, markdown, read_study, run_cell, run_on_ray, run_study, table

STUDIES = Path(__file__).resolve().parents[3] / "studies"
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


def pretend(cell: Cell, accuracy: float = 90.0, seconds: float = 7.0) -> bool:
    """What a search leaves behind."""
    run = RunFolder.create(cell.folder, cell.config)
    record = {"epoch": 0, "temperature": 1.0, "entropy": 0.5, "discrete_accuracy": 60.0}
    times = {"seconds": seconds, "cpu_seconds": 7.0}
    run.append({**record, **times, "nb201": {"cifar10": 10.0}})
    run.write_genotype(str(accuracy + cell.seed))
    run.write_weights({})
    return True


class PretendTable:
    """Of accuracies that `pretend` wrote in the genotype's place."""

    def __getitem__(self, genotype: str) -> SimpleNamespace:
        accuracies = {"cifar10": float(genotype), "cifar100": 70.0, "imagenet16_120": 40.0}
        return SimpleNamespace(test=accuracies)

    @property
    def rows(self) -> list[SimpleNamespace]:
        return [self["60"], self["80"]]


def test_cells_are_all_combinations(tmp_path: Path) -> None:
    settings = {"s100": {"options": {"scale": 100}}, "st1": {"options": {"smooth_temperature": 1}}}
    study = read_study(write(tmp_path, methods=["edd"], settings=settings))
    assert [cell.folder.name for cell in study.cells] == [
        "edd-s100-seed0",
        "edd-s100-seed1",
        "edd-st1-seed0",
        "edd-st1-seed1",
    ]
    assert [cell.config["options"]["scale"] for cell in study.cells] == [100.0] * 2 + [None] * 2
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
        ({"per_method": {"ed": {}}}, "'ed' is unknown"),
        ({"evaluate": {"C10": {"recipe": "dart"}}}, "did you mean 'darts'"),
        ({"methods": [{"name": "edd"}]}, "names no method"),
        ({"methods": [{"method": "edd", "paper": {"cifar": 1}}]}, "did you mean 'cifar10'"),
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

    with pytest.raises(UserError, match=r"1 cells are not finished \(edd-seed1\)"):
        run_study(study, run=run, report=lambda line: None)
    results = run_study(study, run=run, report=lambda line: None)
    assert ran == ["edd-seed0", "darts-v1-seed0", "edd-seed1", "darts-v1-seed1", "edd-seed1"]
    assert run_study(study, run=run, report=lambda line: None) == results
    assert len(ran) == 5
    assert json.loads((study.out / "study.json").read_text()) == results
    assert (study.out / "study.md").read_text() == markdown(results)


def test_no_cell_is_begun_when_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("darts.study.run.time", SimpleNamespace(monotonic=lambda: float(clock.now)))

    def slowly(cell: Cell) -> bool:
        clock.now += 50
        return pretend(cell)

    study = read_study(write(tmp_path))
    said: list[str] = []
    run_study(study, run=slowly, report=said.append, minutes=1.5)
    assert [cell.finished for cell in study.cells].count(True) == 2  # at 0 and 50 of 90 seconds
    assert said[-1] == "2 cells are left; the same command goes on with them"
    run_study(study, run=slowly)
    assert all(cell.finished for cell in study.cells)


def test_what_can_still_end_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("darts.study.run.time", SimpleNamespace(monotonic=lambda: float(clock.now)))
    takes = {"edd": 1000.0, "darts-v1": 100.0}
    begun: list[str] = []

    def run(cell: Cell) -> bool:
        begun.append(cell.folder.name)
        seconds = takes[cell.row]
        fits = clock.now + seconds <= end
        clock.now = min(clock.now + seconds, end)
        return fits and pretend(cell, seconds=seconds)

    study = read_study(write(tmp_path, seeds=[0, 1, 2]))
    end = 1920.0
    run_study(study, run=run, report=lambda line: None, minutes=32)
    # Of 1000 seconds each, the next edd would not end in the 820 that are left, nor in 720.
    assert begun[:2] == ["edd-seed0", "darts-v1-seed0"]
    assert begun[2:] == ["darts-v1-seed1", "darts-v1-seed2", "edd-seed1"]
    assert [cell.finished for cell in study.cells].count(True) == 4


def test_several_searches_on_one_gpu_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []
    open_now = 0

    @contextmanager
    def daemon(told: Callable[[str], object]) -> Iterator[dict[str, str]]:
        nonlocal open_now
        open_now += 1
        yield {"DAEMON": "ours"}
        open_now -= 1

    def cell_alone(cell: Cell, **options: Any) -> bool:
        given.append(dict(options["environment"]))
        assert open_now == len(given[-1])
        return pretend(cell)

    monkeypatch.setattr("darts.study.run.shared_gpu", daemon)
    monkeypatch.setattr("darts.study.run.run_cell", cell_alone)
    for workers, device, shared in ((2, "cuda", True), (1, "cuda", False), (2, "cpu", False)):
        folder = tmp_path / f"{workers}-{device}"
        folder.mkdir()
        study = read_study(write(folder), device=device)
        assert {cell.config["device"] for cell in study.cells} == {device}
        given.clear()
        run_study(study, workers=workers, report=lambda line: None)
        assert given == [{"DAEMON": "ours"} if shared else {}] * 4
    assert open_now == 0


def test_a_cells_processes_get_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    def popen(command: list[str], *, env: dict[str, str], **options: Any) -> SimpleNamespace:
        seen.append(env)
        return SimpleNamespace(wait=lambda timeout: 2)

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("darts.study.run.subprocess.Popen", popen)
    assert not run_cell(one_cell(tmp_path).cells[0], threads=3, environment={"DAEMON": "ours"})
    assert [(env["DAEMON"], env["OMP_NUM_THREADS"]) for env in seen] == [("ours", "3")]


def test_a_failure_before_time_is_over_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("darts.study.run.time", SimpleNamespace(monotonic=lambda: float(clock.now)))
    begun: list[str] = []

    def fails_first(cell: Cell) -> bool:
        begun.append(cell.folder.name)
        clock.now += 50
        return pretend(cell) if len(begun) > 1 else False

    said: list[str] = []
    with pytest.raises(UserError, match="1 cells are not finished") as error:
        run_study(read_study(write(tmp_path)), run=fails_first, report=said.append, minutes=1.5)
    assert begun[0] in str(error.value)
    assert said[-1] == "2 cells are left; the same command goes on with them"


def test_changed_configuration_is_refused(tmp_path: Path) -> None:
    run_study(read_study(write(tmp_path)), run=pretend, report=lambda line: None)
    changed = read_study(write(tmp_path, base={**BASE, "epochs": 3}))
    with pytest.raises(UserError, match="was begun with another configuration: epochs was 2"):
        run_study(changed, run=pretend, report=lambda line: None)


def test_table_has_mean_deviation_and_the_honest_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("darts.study.table")  # the package has a function of that name
    monkeypatch.setattr(module, "_known", lambda file: PretendTable())
    paper = {"cifar10": [93.8, 0.33], "seconds": 7392}
    entry = {"name": "EDD", "method": "edd", "paper": paper}
    base = {**BASE, "nb201": "table.csv"}
    study = read_study(write(tmp_path, methods=[entry, "darts-v1"], seeds=[0, 1, 2], base=base))
    for cell in study.cells[:4]:
        pretend(cell)
    results = table(study)
    first, second = results["rows"]
    assert (first["name"], first["cells"], len(first["runs"])) == ("EDD", 3, 3)
    assert (first["mean"]["cifar10"], first["std"]["cifar10"]) == (91.0, 1.0)
    assert (second["mean"]["cifar10"], second["std"]) == (90.0, {})
    assert first["runs"][2]["trajectory"]["cifar10"] == [10.0]  # before the selection
    assert results["references"]["mean of the space"]["cifar10"] == 70.0
    assert markdown(results).splitlines()[:5] == [
        "| | seeds | H(β) | pruned % | CIFAR-10 % | paper | CIFAR-100 % | ImageNet16-120 % | s | "
        "paper |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| EDD | 3/3 | 0.50 ± 0.00 | 60.00 ± 0.00 | 91.00 ± 1.00 | 93.80 ± 0.33 | 70.00 ± 0.00 | "
        "40.00 ± 0.00 | 7.00 ± 0.00 | 7392 |",
        "| darts-v1 | 1/3 | 0.50 | 60.00 | 90.00 |  | 70.00 | 40.00 | 7.00 |  |",
        "| *optimum* | |  |  | 94.37 |  | 73.51 | 47.31 |  |  |",
    ]


PROFILES = {
    "full": {"base": {"epochs": 50}},
    "small": {"base": {"epochs": 1}, "seeds": [3], "evaluate": {"C10": {}}},
}


def test_profile_changes_what_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path, profiles=PROFILES)
    full, small = read_study(path, "full"), read_study(path, "small")
    assert [cell.config["epochs"] for cell in full.cells] == [50] * 4
    assert [cell.config["epochs"] for cell in small.cells] == [1, 1]
    assert {cell.seed for cell in small.cells} == {3}
    assert list(small.cells[0].evaluations) == ["C10"]
    with pytest.raises(UserError, match="needs a profile; valid are: full, small"):
        read_study(path)
    with pytest.raises(UserError, match="profile 'smal' is unknown; did you mean 'small'"):
        read_study(path, "smal")


def test_entry_has_its_own_name_folder_seeds_and_settings(tmp_path: Path) -> None:
    entry = {"name": "st ≡ 1", "id": "mine", "method": "edd", "seeds": 1, "epochs": 3}
    cells = read_study(write(tmp_path, methods=[entry, "edd"])).cells
    assert [cell.folder.name for cell in cells] == ["mine-seed0", "edd-seed0", "edd-seed1"]
    assert (cells[0].row, cells[0].config["epochs"]) == ("st ≡ 1", 3)
    with pytest.raises(UserError, match="two rows share edd-seed0; give one of them an id"):
        read_study(write(tmp_path, methods=["edd", {"method": "edd", "epochs": 3}]))


def test_settings_of_single_methods(tmp_path: Path) -> None:
    only = {"edd": {"options": {"lam": 0.5}}}
    edd, darts = read_study(write(tmp_path, seeds=[0], per_method=only)).cells
    assert edd.config["options"]["lam"] == 0.5
    assert "lam" not in darts.config["options"]


def test_study_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "study.yaml").rename(tmp_path / "studies" / "mine.yaml")
    assert read_study("mine").name == "mine"
    with pytest.raises(UserError, match="'table99' is neither a file nor one of studies"):
        read_study("table99")


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_of_the_project_are_valid(file: Path) -> None:
    profiles = yaml.safe_load(file.read_text())["profiles"]
    for profile in profiles:
        study = read_study(file, profile)
        assert study.title.lower().replace(" ", "-").startswith(study.name[:-1])
        if profile == "full" and study.name.startswith("table"):
            assert any(cell.paper for cell in study.cells)


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
def test_a_search_out_of_time_is_saved_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    cell = one_cell(tmp_path).cells[0]

    class OutOfTime(subprocess.Popen[bytes]):
        """Its time is over as soon as it has saved something."""

        def wait(self, timeout: float | None = None) -> int:
            while timeout is not None and not list(cell.folder.glob("checkpoints/*.ckpt")):
                assert self.poll() is None
                time.sleep(0.005)
            if timeout is not None:
                raise subprocess.TimeoutExpired("search", timeout)
            return super().wait()

    with monkeypatch.context() as patched:
        patched.setattr("darts.study.run.subprocess.Popen", OutOfTime)
        assert not run_cell(cell, end=time.monotonic() + 3600)
    assert list(cell.folder.glob("checkpoints/*.ckpt"))
    assert len(RunFolder.open(cell.folder).records()) < 2
    assert run_cell(cell)
    assert len(RunFolder.open(cell.folder).records()) == 2


@pytest.mark.slow
def test_killed_search_is_started_again_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
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
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    study = one_cell(tmp_path)
    done = threading.Event()
    run = run_on_ray("")
    thread = kill_once(study.cells[0], name="ray::there", done=done)
    try:
        results = run_study(study, run=run, report=lambda line: None)
    finally:
        done.set()
        thread.join()
        ray.shutdown()
    assert thread.killed  # type: ignore[attr-defined]
    assert len(results["rows"][0]["runs"]) == 1
    assert len(RunFolder.open(study.cells[0].folder).records()) == 2
