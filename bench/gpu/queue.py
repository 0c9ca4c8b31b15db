"""Tasks within a time: what has not passed on this state, of that what can end in time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from darts.files import write_text

MARGIN = 45.0
"""Seconds that a task which is told its time has less than is left: to start, and to save."""
STOPPED = 124
"""The code of a command that was still running when its time was over."""


@dataclass(frozen=True)
class Task:
    """One command.

    Most are done when they end with 0. One that is told its time goes on where it stopped, and says
    itself what is left.
    """

    name: str
    command: Sequence[str]
    """Of one that is told its time with {seconds} or {minutes} in it."""
    seconds: float
    """How long it takes, until it has been measured; the least that is worth a start of one that is
    told its time."""
    left: Callable[[], int] | None = None
    """Of one that is told its time: how much it has yet to do."""
    results: Sequence[Path] = ()
    """Files that it writes elsewhere, to be copied into the folder."""


@dataclass(frozen=True)
class Ended:
    """How a task ended: its code (0 is success), its seconds, its last lines."""

    code: int
    seconds: float
    tail: str


Run = Callable[[Sequence[str], float], Ended]
"""Runs a command for at most so many seconds."""


class Ledger:
    """How every task ended, in FOLDER/tasks.json; written whole whenever one has.

    Args:
        folder: of the results; made if it is not there.
        state: names what is measured. What another state gave counts for the time alone.
        about: the machine, for the file.
    """

    def __init__(self, folder: Path, state: str, about: dict[str, Any]) -> None:
        self.folder, self.state = folder, state
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "tasks.json"
        read = json.loads(self.path.read_text()) if self.path.is_file() else {"tasks": {}}
        self.tasks: dict[str, dict[str, Any]] = read["tasks"]
        self.about = about

    def done(self, task: Task) -> bool:
        """Whether it has passed on this state, and nothing of it is left."""
        return self._code(task) == 0 and self.tasks[task.name]["left"] == 0

    def failed(self, task: Task) -> bool:
        """Whether it has failed on this state, for want of more than time."""
        return self._code(task) not in (None, 0, STOPPED)

    def _code(self, task: Task) -> int | None:
        known = self.tasks.get(task.name)
        return known["code"] if known and known["state"] == self.state else None

    def estimate(self, task: Task) -> float:
        """Seconds that it needs: as measured, twice as many as it was stopped after, or stated."""
        known = self.tasks.get(task.name)
        if task.left is not None or known is None:
            return task.seconds
        return float(known["seconds"] * (2 if known["code"] == STOPPED else 1))

    def write(self, task: Task, command: Sequence[str], ended: Ended) -> None:
        """Note how it ended."""
        for path in task.results:
            if path.is_file():
                shutil.copyfile(path, self.folder / path.name)
        self.tasks[task.name] = {
            "state": self.state,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(command),
            "left": task.left() if task.left else 0,
            **asdict(ended),
        }
        record = {"machine": self.about, "tasks": self.tasks}
        write_text(self.path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def chosen(tasks: Sequence[Task], names: Sequence[str] | None) -> list[Task]:
    """Those whose name begins with one of `names`; all where there are none.

    Raises:
        SystemExit: a name is no task's.
    """
    if not names:
        return list(tasks)
    for name in names:
        if not any(task.name.startswith(name) for task in tasks):
            known = ", ".join(task.name for task in tasks)
            raise SystemExit(f"--only {name}: there is no such task here; there are {known}.")
    return [task for task in tasks if task.name.startswith(tuple(names))]


def work(
    tasks: Sequence[Task],
    ledger: Ledger,
    run: Run,
    *,
    left: Callable[[], float],
    again: bool = False,
    told: Callable[[str], object] = print,
    ended: Callable[[], object] = lambda: None,
) -> None:
    """Run the tasks in their order, those that failed on this state after the others.

    Args:
        tasks: the most informative first.
        ledger: what has been done, and where the rest is noted.
        run: see `Run`.
        left: seconds until the end, which may be infinite.
        again: run what has passed, too.
        told: takes a line on every task.
        ended: called after each task that ran.
    """
    for task in sorted(tasks, key=ledger.failed):
        if ledger.done(task) and not again:
            told(f"== {task.name}: passed before")
            continue
        spare, wanted = left(), ledger.estimate(task)
        if wanted > spare - (MARGIN if task.left else 0):
            told(f"== {task.name}: not started, it needs {wanted:.0f} s and {spare:.0f} are left")
            continue
        command = with_time(task.command, spare - MARGIN)
        told(f"== {task.name}: {' '.join(command)}")
        result = run(command, spare)
        ledger.write(task, command, result)
        ended()
        verdict = {0: "done", STOPPED: "stopped at the end of its time"}
        told(
            f"{result.tail}\n== {task.name}: {verdict.get(result.code, f'failed ({result.code})')}"
            f" in {result.seconds:.0f} s"
        )


def with_time(command: Sequence[str], seconds: float) -> list[str]:
    """A command with what {seconds} and {minutes} stand for in it."""
    time = {"{seconds}": f"{seconds:.0f}", "{minutes}": f"{seconds / 60:.2f}"}
    return [time.get(part, part) for part in command]


def run_command(
    command: Sequence[str],
    limit: float,
    *,
    now: Callable[[], float],
    folder: Path,
    **environment: str,
) -> Ended:
    """Run a command in a session of its own, all of which is killed after `limit` seconds."""
    start = now()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    stopped = ""
    try:
        output, _ = process.communicate(timeout=None if limit == float("inf") else limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code, stopped = STOPPED, f"\nstopped after {limit:.0f} seconds"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    tail = "\n".join(f"{output}{stopped}".splitlines()[-40:])
    return Ended(code, round(now() - start, 1), tail)
