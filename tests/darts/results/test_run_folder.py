from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from darts.errors import UserError
from darts.files import atomic_write
from darts.results.run_folder import RunFolder


def test_keeps_what_is_written(tmp_path: Path) -> None:
    config = {"method": "edd", "optimizer": {"rate": 0.025}, "λ": 0.24}
    run = RunFolder.create(tmp_path / "a" / "run", config)
    run.append({"epoch": 0, "loss": 2.25})
    run.append({"epoch": 1, "loss": 2.0})
    run.write_genotype("|none~0|")
    run.write_weights({"stem": torch.arange(3)})
    again = RunFolder.open(run.path)
    assert again.config == config
    assert again.records() == [{"epoch": 0, "loss": 2.25}, {"epoch": 1, "loss": 2.0}]
    assert (run.path / "genotype.txt").read_text() == "|none~0|\n"
    assert torch.load(run.path / "weights.pt", weights_only=True)["stem"].tolist() == [0, 1, 2]
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml",
        "log.jsonl",
        "genotype.txt",
        "weights.pt",
    }


def test_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="is not an empty folder"):
            RunFolder.create(path, {})
    with pytest.raises(UserError, match="cannot be made"):
        RunFolder.create(tmp_path / "file" / "below", {})
    assert (tmp_path / "file").read_text() == "mine"


def test_refuses_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="cannot be read"):
        _ = RunFolder.open(tmp_path).config
    (tmp_path / "config.yaml").write_text("- 1")
    with pytest.raises(UserError, match="must hold a mapping"):
        _ = RunFolder.open(tmp_path).config


def test_failed_write_keeps_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise OSError("no space left on device")

    with pytest.raises(UserError, match="no space"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_torn_last_line_is_passed_over_and_cut(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.append({"epoch": 0})
    run.append({"epoch": 1})
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert [record["epoch"] for record in run.records()] == [0, 1]
    run.truncate_log(1)
    run.append({"epoch": 1})
    assert [record["epoch"] for record in run.records()] == [0, 1]
    with pytest.raises(UserError, match="has 2 records, but the checkpoint was taken after 3"):
        run.truncate_log(3)


def test_log_refuses_what_json_lacks(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(ValueError, match="JSON"):
        run.append({"loss": float("nan")})
    assert run.records() == []


def test_kill_never_leaves_half_a_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from darts.results.run_folder import RunFolder\n"
        "run = RunFolder(Path(sys.argv[1]))\n"
        "while True:\n"
        "    for letter in 'ab': run.write_text('state', letter * 3_000_000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    state = tmp_path / "state"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = state.read_text()
    assert len(text) == 3_000_000
    assert len(set(text)) == 1


def test_full_disk_is_one_sentence_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run", {})
    run.write_genotype("|none~0|")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for name, write in (
        ("genotype.txt", lambda: run.write_genotype("|skip_connect~0|")),
        ("weights.pt", lambda: run.write_weights({"stem": torch.arange(3)})),
        ("log.jsonl", lambda: run.append({"epoch": 0})),
    ):
        with pytest.raises(UserError, match=rf"{name} cannot be written \(No space left on device"):
            write()
    assert (run.path / "genotype.txt").read_text() == "|none~0|\n"
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml",
        "genotype.txt",
        "log.jsonl",
    }
