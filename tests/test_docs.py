"""Every shell command in the documentation of runs works as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "running.md"


@pytest.mark.slow
def test_commands_work_as_written(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line]
    assert len(commands) >= 9
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block)
    root = str(PAGE.parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "python"
        run = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{command}\n{run.stderr}"
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    listed = {
        f"runs/edd/{name}"
        for name in re.findall(r"^\| `([\w.]+\w)` \|", PAGE.read_text(), re.M)
        if "." in name
    }
    assert len(listed) == 5
    assert listed <= made
    assert {"runs/report.html", "runs/network.pt", "runs/network.pt2"} <= made
    assert "runs/study/table.md" in made
