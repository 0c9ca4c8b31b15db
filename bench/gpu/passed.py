"""A plugin of pytest: runs the tests that have not passed on this state, as far as the time goes.

    pytest -p bench.gpu.passed --record FILE --state STATE --seconds S ...

FILE (JSON) is written whole after every test. A test is not started that would take longer than is
left, by what it took the last time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darts.files import write_text

UNKNOWN = 5.0
"""Seconds for a test that has not been measured."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The three options."""
    parser.addoption("--record", type=Path, help="file of what has passed")
    parser.addoption("--state", default="", help="what the tests are run on")
    parser.addoption("--seconds", type=float, default=float("inf"), help="time for all of it")


def pytest_configure(config: pytest.Config) -> None:
    """Take part where a file is named."""
    if path := config.getoption("--record"):
        seconds = config.getoption("--seconds")
        config.pluginmanager.register(Passed(path, config.getoption("--state"), seconds))


class Passed:
    """The hooks, with the record that they keep."""

    def __init__(
        self, path: Path, state: str, seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self.state, self.now = path, state, now
        self.end = now() + seconds
        read = json.loads(path.read_text()) if path.is_file() else {}
        self.tests: dict[str, dict[str, Any]] = read.get("tests", {})
        self.selected: list[str] = []
        self.running: dict[str, Any] = {}

    def outcome(self, name: str) -> str | None:
        """How a test ended on this state."""
        known = self.tests.get(name, {})
        return known["outcome"] if known.get("state") == self.state else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what has passed; kernels before what is built of them, failures last."""
        self.selected = [item.nodeid for item in items]
        done = [item for item in items if self.outcome(item.nodeid) in ("passed", "skipped")]
        config.hook.pytest_deselected(items=done)
        rest = [item for item in items if item not in done]
        rest.sort(key=lambda i: (self.outcome(i.nodeid) is not None, "/snsoftmax/" not in i.nodeid))
        items[:] = rest
        self.write()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Pass over a test that cannot end in time."""
        wanted = self.tests.get(item.nodeid, {}).get("seconds", UNKNOWN)
        return True if wanted > self.end - self.now() else None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that it began, so that one that ends the process is not the first again."""
        before = self.tests.get(nodeid, {"seconds": UNKNOWN})
        self.tests[nodeid] = before | {"state": self.state, "outcome": "begun"}
        self.write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test when its last phase is over."""
        if report.when == "setup":
            self.running = {"state": self.state, "outcome": "passed", "seconds": 0.0}
        self.running["seconds"] = round(self.running["seconds"] + report.duration, 3)
        if report.outcome != "passed":
            self.running["outcome"] = report.outcome
        if report.when == "teardown":
            self.tests[report.nodeid] = self.running
            self.write()

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """That nothing is left to run is no failure."""
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.selected:
            session.exitstatus = pytest.ExitCode.OK

    def write(self) -> None:
        """Write the record."""
        left = sum(self.outcome(name) not in ("passed", "skipped") for name in self.selected)
        record = {"left": left, "tests": self.tests}
        write_text(self.path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
