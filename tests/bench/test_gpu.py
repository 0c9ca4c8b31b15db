"""The GPU command where there is no GPU, and its judgement of measurements."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu

ROOT = Path(__file__).resolve().parents[2]


def test_without_gpu_it_ends_at_once_with_one_sentence(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("bench.gpu needs a GPU, and ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def row(kind: str, shape: list[int], **us: float) -> dict[str, object]:
    return {"shape": shape, "dtype": "float32", "pass": kind, "us": us}


def test_targets_are_met_or_missed() -> None:
    rows = [
        row("both", [4096, 8192], ours=100.0, eager=399.0, compiled=100.0, floor=91.0),
        row("forward", [6, 5], ours=5.0, eager=9.0, compiled=4.0, floor=0.1),
    ]
    met = {(t["case"], t["target"]): t["met"] for t in gpu.targets(rows)}
    assert met == {
        ("4096x8192", "compiled"): True,
        ("4096x8192", "eager"): False,
        ("4096x8192", "bandwidth"): True,
        ("6x5", "compiled"): False,
    }


def test_a_command_that_hangs_is_a_failed_step(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import time; print('so far', flush=True); time.sleep(60)"
    step = gpu.run("sleep", [sys.executable, "-c", program], 2)
    assert step.code == 124
    assert step.tail.splitlines() == ["so far", "", "stopped after 2 seconds"]
    assert "failed (124)" in capfd.readouterr().out
