"""Watching a search that runs in a process of its own."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def wait_for_checkpoint(out: Path, number: int, process: subprocess.Popen[str]) -> bool:
    """Whether a checkpoint of at least this number came before the process or two minutes ended."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        files = sorted((out / "checkpoints").glob("*.ckpt"))
        if files and int(files[-1].stem) >= number:
            return True
        time.sleep(0.002)
    return False
