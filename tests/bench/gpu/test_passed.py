"""The plugin that runs the tests which have not passed on a state of the sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = "pytester"
Run = Callable[..., tuple[list[str], dict[str, Any]]]
TESTS = """
import os, pytest
def test_good(): pass
def test_bad(): assert os.path.exists("mended")
def test_left_out(): pytest.skip("not here")
def test_ends_the_process():
    if os.path.exists("broken"): os._exit(1)
def test_last(): pass
"""


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    pytester.makepyfile(test_some=TESTS)
    return pytester.path


@pytest.fixture
def codes() -> list[int]:
    """How pytest ended, each time."""
    return []


@pytest.fixture
def run(pytester: pytest.Pytester, folder: Path, codes: list[int]) -> Run:
    """Runs the tests on a state: gives what ran, in its order, and the record."""

    def run(state: str, *options: str, apart: bool = False) -> tuple[list[str], dict[str, Any]]:
        command = ["-v", "-p", "bench.gpu.passed", "-p", "no:xdist", "-p", "no:cacheprovider"]
        command += ["--record", "record.json", "--state", state, *options]
        runner = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        result = runner(*command)
        codes.append(result.ret)
        lines = result.outlines
        ran = [
            line.split("::")[1].split()[0] for line in lines if line.startswith("test_some.py::")
        ]
        return ran, json.loads((folder / "record.json").read_text())

    return run


def test_only_what_has_not_passed_runs_again_failures_last(
    folder: Path, run: Run, codes: list[int]
) -> None:
    (folder / "broken").touch()
    ran, record = run("one", apart=True)
    assert ran == ["test_good", "test_bad", "test_left_out", "test_ends_the_process"]
    assert record["left"] == 3
    (folder / "broken").unlink()
    ran, record = run("one")
    assert ran == ["test_last", "test_bad", "test_ends_the_process"]
    assert record["left"] == 1
    (folder / "mended").touch()
    ran, record = run("one")
    assert (ran, record["left"]) == (["test_bad"], 0)
    assert run("one")[0] == []
    assert codes == [1, 1, 0, 0]
    assert len(run("two")[0]) == 5


def test_a_test_that_cannot_end_in_time_is_passed_over(folder: Path, run: Run) -> None:
    (folder / "mended").touch()
    run("one")
    record = json.loads((folder / "record.json").read_text())
    record["tests"]["test_some.py::test_good"]["seconds"] = 500.0
    del record["tests"]["test_some.py::test_last"]
    (folder / "record.json").write_text(json.dumps(record))
    ran, after = run("two", "--seconds", "400")
    assert ran == ["test_bad", "test_left_out", "test_ends_the_process", "test_last"]
    assert after["left"] == 1
    assert run("two", "--seconds", "-1")[0] == []
