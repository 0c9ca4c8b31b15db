"""NVIDIA's daemon, started and stopped; by a program that stands in for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from darts.devices.mps import CONTROL, PIPES, shared_gpu

USES = (sys.executable, "-c", "pass")
REFUSED = (sys.executable, "-c", "raise SystemExit('driver says no')")
DAEMON = """#!/bin/sh
echo "$* $(cat) $(test -d "$CUDA_MPS_PIPE_DIRECTORY" && echo there)" >> {log}
{then}
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the daemon's program was called with, none of which is installed yet."""
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "log.txt"


def install(log: Path, then: str = "") -> None:
    program = log.with_name(CONTROL)
    program.write_text(DAEMON.format(log=log, then=then))
    program.chmod(0o755)


def calls(log: Path) -> list[str]:
    return [" ".join(line.split()) for line in log.read_text().splitlines()]


def test_it_is_started_and_stopped(log: Path) -> None:
    install(log)
    said: list[str] = []
    with shared_gpu(said.append, USES) as environment:
        assert calls(log) == ["-d there"]
        assert Path(environment[PIPES]).is_dir()
        assert PIPES not in os.environ
    assert calls(log) == ["-d there", "quit there"]
    assert not Path(environment[PIPES]).exists()
    assert said == []


def test_it_is_stopped_after_an_error(log: Path) -> None:
    install(log)
    with pytest.raises(ZeroDivisionError), shared_gpu(print, USES):
        raise ZeroDivisionError
    assert calls(log) == ["-d there", "quit there"]


def test_where_it_is_not_installed_that_is_said(log: Path) -> None:
    said: list[str] = []
    with shared_gpu(said.append, USES) as environment:
        assert environment == {}
    assert said == [f"processes take turns on the GPU: {CONTROL} is not installed"]


def test_where_it_does_not_start_that_is_said(log: Path) -> None:
    install(log, "echo 'no permission'; exit 1")
    said: list[str] = []
    with shared_gpu(said.append, USES) as environment:
        assert environment == {}
    assert said == [f"processes take turns on the GPU: {CONTROL} does not start (no permission)"]
    assert calls(log) == ["-d there"]


def test_where_nothing_can_use_it_that_is_said_and_it_is_stopped(log: Path) -> None:
    install(log)
    said: list[str] = []
    with shared_gpu(said.append, REFUSED) as environment:
        assert environment == {}
    assert said == [f"processes take turns on the GPU: {CONTROL} lets none use it (driver says no)"]
    assert calls(log) == ["-d there", "quit there"]


def test_somebody_elses_is_left_alone(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(log)
    monkeypatch.setenv(PIPES, "/tmp/theirs")
    with shared_gpu(print, USES) as environment:
        assert environment == {}
    assert not log.exists()
