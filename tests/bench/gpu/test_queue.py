"""Tasks within a time, by a clock and commands that are made up."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from bench.gpu.queue import MARGIN, STOPPED, Ended, Ledger, Task, chosen, run_command, work


class Machine:
    """A clock that only commands move, by what they really take."""

    def __init__(self, folder: Path, takes: Mapping[str, float], state: str = "s") -> None:
        self.folder, self.takes, self.state = folder, dict(takes), state
        self.codes: dict[str, int] = {}
        self.ran: list[list[str]] = []
        self.lines: list[str] = []
        self.now = 0.0

    def run(self, command: Sequence[str], limit: float) -> Ended:
        self.ran.append(list(command))
        before = (
            json.loads(path.read_text()) if (path := self.folder / "tasks.json").exists() else {}
        )
        self.seen = sorted(before.get("tasks", {}))
        seconds = min(self.takes[command[0]], limit)
        self.now += seconds
        stopped = self.takes[command[0]] > limit
        return Ended(STOPPED if stopped else self.codes.get(command[0], 0), seconds, "")

    def go(self, tasks: Sequence[Task], seconds: float, again: bool = False) -> list[str]:
        """Give the names of what ran in so many seconds."""
        self.ran, end = [], self.now + seconds
        ledger = Ledger(self.folder, self.state, {})
        left: Callable[[], float] = lambda: end - self.now  # noqa: E731
        work(tasks, ledger, self.run, left=left, again=again, told=self.lines.append)
        assert self.now <= end
        return [command[0] for command in self.ran]


def tasks(**seconds: float) -> list[Task]:
    return [Task(name, [name], estimate) for name, estimate in seconds.items()]


def test_what_cannot_end_is_not_started_but_what_can_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"a": 10, "b": 100, "c": 5})
    assert machine.go(tasks(a=10, b=100, c=5), 60) == ["a", "c"]
    assert "== b: not started, it needs 100 s and 50 are left" in machine.lines


def test_the_next_call_goes_on_and_an_estimate_gives_way_to_what_was_measured(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, {"a": 10, "b": 30, "c": 5})
    every = tasks(a=10, b=100, c=5)
    assert machine.go(every, 60) == ["a", "c"]
    assert machine.go(every, 120) == ["b"]
    assert machine.go(every, 120) == []
    machine.state = "changed"
    assert machine.go(every, 46) == ["a", "b", "c"]  # by the estimate b would not fit


def test_every_result_is_there_before_the_next_task(tmp_path: Path) -> None:
    made = tmp_path / "elsewhere.txt"
    made.write_text("table")
    machine = Machine(tmp_path / "new", {"a": 1, "b": 1})
    machine.go([Task("a", ["a"], 1, results=[made]), Task("b", ["b"], 1)], 60)
    assert machine.seen == ["a"]
    assert (tmp_path / "new/elsewhere.txt").read_text() == "table"


def test_failures_come_after_what_has_not_run_and_are_run_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"a": 10, "b": 10, "c": 10})
    machine.codes["a"] = 1
    every = tasks(a=10, b=10, c=10)
    assert machine.go(every, 20) == ["a", "b"]
    assert machine.go(every, 60) == ["c", "a"]
    assert Ledger(tmp_path, "s", {}).failed(every[0])
    assert not Ledger(tmp_path, "changed", {}).failed(every[0])


def test_one_that_was_stopped_is_started_with_twice_the_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"a": 70})
    assert machine.go(tasks(a=10), 60) == ["a"]
    assert machine.go(tasks(a=10), 119) == []
    assert machine.go(tasks(a=10), 120) == ["a"]
    assert machine.go(tasks(a=10), 120) == []


def test_one_that_is_told_its_time_goes_on_until_nothing_is_left(tmp_path: Path) -> None:
    rest = 2

    def left() -> int:
        return rest

    machine = Machine(tmp_path, {"a": 40})
    every = [Task("a", ["a", "--for", "{seconds}", "{minutes}"], 30, left=left)]
    assert machine.go(every, 30 + MARGIN - 1) == []
    assert machine.go(every, 80) == ["a"]
    assert machine.ran == [["a", "--for", f"{80 - MARGIN:.0f}", f"{(80 - MARGIN) / 60:.2f}"]]
    rest = 0
    assert machine.go(every, 80) == ["a"]
    assert machine.go(every, 80) == []
    assert machine.go(every, 80, again=True) == ["a"]


def test_only_takes_names_by_their_beginning() -> None:
    every = tasks(**{"tests": 1, "memcheck a": 1, "memcheck b": 1})
    assert chosen(every, None) == every
    assert [task.name for task in chosen(every, ["memcheck"])] == ["memcheck a", "memcheck b"]
    with pytest.raises(SystemExit, match=r"--only memchek: there is no such task here; there are"):
        chosen(every, ["memchek"])


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    child = f"import time; time.sleep(3); open({str(tmp_path / 'alive')!r}, 'w')"
    program = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]);"
        "print('so far', flush=True); time.sleep(60)"
    )
    ended = run_command([sys.executable, "-c", program], 2, now=time.monotonic, folder=tmp_path)
    assert ended.code == STOPPED
    assert ended.tail.splitlines() == ["so far", "", "stopped after 2 seconds"]
    time.sleep(2)
    assert not (tmp_path / "alive").exists()


def test_a_command_gives_its_code_and_last_lines(tmp_path: Path) -> None:
    program = "print(*range(100), sep='\\n'); raise SystemExit(3)"
    ended = run_command(
        [sys.executable, "-c", program], float("inf"), now=time.monotonic, folder=tmp_path
    )
    assert ended.code == 3
    assert ended.tail.splitlines() == [str(i) for i in range(60, 100)]
