from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darts.errors import UserError
from darts.training import checkpoint
from darts.training.checkpoint import (
    Checkpoints,
    Keeper,
    Stopped,
    differences,
    random_state,
    read,
    set_random_state,
)

CONFIG = {"method": "edd", "data": {"batch_size": 64}, "out": "here"}


def test_gives_back_the_newest_state(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, CONFIG)
    assert kept.load() is None
    for step in range(5):
        state = {
            "step": step,
            "weights": {"a": torch.full((3,), step)},
            "none": None,
            "t": (1, 2.5),
        }
        kept.save(state)
    loaded = kept.load()
    assert loaded is not None
    assert loaded["step"] == 4
    assert loaded["weights"]["a"].tolist() == [4, 4, 4]
    assert (loaded["none"], loaded["t"]) == (None, (1, 2.5))
    assert [path.name for path in kept.files()] == ["00000004.ckpt", "00000005.ckpt"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_newest_names_the_older_good_one(tmp_path: Path, damage: str) -> None:
    kept = Checkpoints(tmp_path, CONFIG)
    kept.save({"step": 1})
    newest = kept.save({"step": 2})
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    newest.write_bytes(content[: {"cut": -1, "flip": None, "empty": 0}[damage]])
    with pytest.raises(UserError, match=r"00000002.*00000001\.ckpt is good: delete 00000002\.ckpt"):
        kept.load()
    newest.unlink()
    assert kept.load() == {"step": 1}


def test_only_checkpoint_damaged_is_one_sentence(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, CONFIG)
    path = kept.save({"step": 1})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"is damaged: its checksum does not match\.$"):
        kept.load()


def test_other_format_version_or_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path, CONFIG)
    path = kept.save({"step": 1})
    assert Checkpoints(tmp_path, {**CONFIG, "out": "moved"}).load() == {"step": 1}
    changed = {"method": "edd", "data": {"batch_size": 32}}
    with pytest.raises(UserError, match=r"data\.batch_size was 64 and is now 32; restore config"):
        Checkpoints(tmp_path, changed).load()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "package_version", lambda: "99.0")
        with pytest.raises(UserError, match=r"was written by version .*, and this is 99\.0"):
            kept.load()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "1.0")
        with pytest.warns(UserWarning, match=r"this is 1\.0: the resumed run may differ"):
            kept.load()
    path.write_bytes(path.read_bytes().replace(b"checkpoint 2\n", b"checkpoint 7\n", 1))
    with pytest.raises(UserError, match=r"has format 'darts checkpoint 7', and this version reads"):
        read(path)


def test_full_disk_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path, CONFIG)
    kept.save({"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device\); .*00000001\.ckpt is kept"):
        kept.save({"step": 2})
    assert kept.load() == {"step": 1}
    assert len(list(kept.folder.iterdir())) == 1


def test_differences_name_every_changed_setting() -> None:
    assert differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4}, "e": 5}) == [
        "b.c was 2 and is now 4",
        "b.d was 3 and is now None",
        "e was None and is now 5",
    ]


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.random())

    kept = Checkpoints(tmp_path, CONFIG)
    kept.save(random_state())
    first = draw()
    draw()
    loaded = kept.load()
    assert loaded is not None
    set_random_state(loaded)
    assert draw() == first


@pytest.mark.slow
def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from darts.training.checkpoint import Checkpoints\n"
        "kept = Checkpoints(Path(sys.argv[1]), {})\n"
        "step = (kept.load() or {'step': 0})['step']\n"
        "while True:\n"
        "    step += 1; kept.save({'step': step, 'big': torch.full((1_000_000,), step)})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    kept = Checkpoints(tmp_path, {})
    before = 0
    for pause in random.Random(0).choices(range(5, 60), k=4):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
        while len(kept.files()) < 2 or int(kept.files()[-1].stem) <= before + 1:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(pause / 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = kept.load()
        assert state is not None
        assert state["step"] > before
        assert bool((state["big"] == state["step"]).all())
        before = state["step"]
    assert len(list(kept.folder.glob(".*"))) <= 1  # what an earlier kill left has been removed


def collect(**state: Any) -> dict[str, Any]:
    return state


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_after_the_step_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    kept = Checkpoints(tmp_path, CONFIG)
    before = signal.getsignal(number)
    with Keeper(kept, lambda: collect(step=7)) as keeper:
        keeper.step_done()
        assert kept.files() == []
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped, match=number.name):
            keeper.step_done()
    assert kept.load() == {"step": 7}
    assert signal.getsignal(number) is before


def test_second_interrupt_ends_at_once() -> None:
    with Keeper(None, collect):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_saves_when_the_minutes_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept = Checkpoints(tmp_path, CONFIG)
    keeper = Keeper(kept, lambda: collect(time=now[0]), minutes=2)
    for now[0], count in ((219.0, 0), (220.0, 1), (339.0, 1), (341.0, 2)):
        keeper.step_done()
        keeper.wait()
        assert len(kept.files()) == count


def test_it_writes_in_the_background_what_was_at_the_time(
    tmp_path: Path,
) -> None:
    go, weight = threading.Event(), torch.zeros(2)
    order: list[str] = []

    class Slow(Checkpoints):
        def save(self, state: Mapping[str, Any]) -> Path:
            assert go.wait(60)
            order.append("saved")
            return super().save(state)

    kept = Slow(tmp_path, CONFIG)
    with Keeper(kept, lambda: {"weight": weight, "sizes": [1, (2, 3)]}) as keeper:
        keeper.save(lambda: order.append("before"))
        weight += 1
        assert kept.files() == []
        go.set()
    loaded = kept.load()
    assert loaded
    assert torch.equal(loaded["weight"], torch.zeros(2))
    assert loaded["sizes"] == [1, (2, 3)]
    assert order == ["before", "saved"]


class Full(Checkpoints):
    """A disk on which there is no room."""

    def save(self, state: Mapping[str, Any]) -> Path:
        raise UserError("no room.")


def test_what_cannot_be_written_ends_the_loop(tmp_path: Path) -> None:
    keeper = Keeper(Full(tmp_path, CONFIG), collect)
    with pytest.raises(UserError, match="no room"), keeper:
        keeper.save()
    with keeper:
        keeper.save()
        with pytest.raises(UserError, match="no room"):
            keeper.save()


def test_a_failure_to_write_does_not_hide_the_first_one(tmp_path: Path) -> None:
    keeper = Keeper(Full(tmp_path, CONFIG), collect)

    def fails() -> None:
        with keeper:
            keeper.save()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()


def test_a_run_that_is_stopped_has_been_written(tmp_path: Path) -> None:
    with Keeper(Full(tmp_path, CONFIG), collect) as keeper:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(UserError, match="no room"):  # and not Stopped, which says it was saved
            keeper.step_done()
