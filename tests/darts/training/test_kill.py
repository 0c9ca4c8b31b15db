"""Searches that are killed and resumed end as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from darts.results.run_folder import RunFolder
from tests.darts.process_helpers import wait_for_checkpoint

SMALL = "--batch-size 64 --channels 4 --cells 1 --epochs 2 --seed 3 --checkpoint-minutes 0.0001"


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "darts", "search", *arguments, "--quiet"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return printed


def outcome(out: Path) -> tuple[list[dict[str, Any]], str, dict[str, torch.Tensor]]:
    run = RunFolder.open(out)
    records = [{k: v for k, v in r.items() if "seconds" not in k} for r in run.records()]
    weights = torch.load(out / "weights.pt", weights_only=True)
    return records, (out / "genotype.txt").read_text(), weights


def assert_same(first: Path, second: Path) -> None:
    (records, genotype, weights), (others, other_genotype, other_weights) = map(
        outcome, (first, second)
    )
    assert len(records) == 2
    assert records == others
    assert genotype == other_genotype
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start("--method", "edd", *SMALL.split(), "--out", str(out)))
    return out


@pytest.mark.slow
def test_killed_at_random_moments(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    chance = random.Random(7)
    process = start("--method", "edd", *SMALL.split(), "--out", str(out))
    for number in (4, 11, 20):  # of 22 steps and two ends of epochs
        wait_for_checkpoint(out, number + chance.randrange(3), process)
        time.sleep(chance.random() / 50)  # often in the middle of writing the next one
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start("--resume", str(out))
    finish(process)
    assert_same(whole, out)


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_says_how_to_go_on(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("--method", "edd", *SMALL.split(), "--out", str(out))
    wait_for_checkpoint(out, 5, process)
    process.send_signal(signal.SIGTERM)
    printed = finish(process)
    assert f"stopped by SIGTERM; python -m darts search --resume {out}" in printed
    assert not (out / "genotype.txt").exists()
    finish(start("--resume", str(out)))
    assert_same(whole, out)


@pytest.mark.slow
def test_killed_before_its_first_checkpoint_it_starts_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("--method", "edd", *SMALL.split(), "--out", str(out))
    while not (out / "config.yaml").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish(start("--resume", str(out)))
    assert_same(whole, out)


@pytest.mark.slow
def test_damaged_checkpoint_is_named_and_the_older_one_works(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("--method", "edd", *SMALL.split(), "--out", str(out))
    wait_for_checkpoint(out, 6, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = sorted((out / "checkpoints").glob("*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    refused = start("--resume", str(out))
    refused.communicate()
    assert refused.returncode == 2
    newest.unlink()
    finish(start("--resume", str(out)))
    assert_same(whole, out)
