"""Several processes on one GPU at a time, by NVIDIA's Multi-Process Service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
PROBE = (sys.executable, "-c", "import torch; torch.zeros(1, device='cuda').item()")
"""A process that uses the GPU: a daemon that starts may still be refused by the driver."""
PATIENCE = 120.0
"""Seconds for each command."""


@contextmanager
def shared_gpu(
    told: Callable[[str], object], probe: Sequence[str] = PROBE
) -> Iterator[dict[str, str]]:
    """Inside, processes with the environment that is given run on the GPU side by side.

    The daemon is started here and stopped at the end. Where it cannot be, ``told`` takes a sentence
    that says why, the environment is empty, and processes take turns on the GPU. One that somebody
    else has started is used as it is.

    Args:
        told: takes a line.
        probe: a command that must succeed under the daemon.
    """
    if os.environ.get(PIPES):
        yield {}
        return
    program = shutil.which(CONTROL)
    if program is None:
        told(f"processes take turns on the GPU: {CONTROL} is not installed")
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        environment = {PIPES: f"{folder}/pipes", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for path in environment.values():
            Path(path).mkdir()
        output = Path(folder) / "output.txt"
        problem = _problem([program, "-d"], environment, output)
        if problem:
            told(f"processes take turns on the GPU: {CONTROL} does not start ({problem})")
            yield {}
            return
        try:
            problem = _problem(probe, environment, output)
            if problem:
                told(f"processes take turns on the GPU: {CONTROL} lets none use it ({problem})")
            yield {} if problem else environment
        finally:
            _problem([program], environment, output, "quit\n")


def _problem(
    command: Sequence[str], environment: Mapping[str, str], output: Path, given: str = ""
) -> str | None:
    """Run a command; why it failed, in its last line."""
    # Into a file: of a pipe the daemon would hold the other end as long as it lives.
    with output.open("w+") as file:
        try:
            result = subprocess.run(
                command,
                env=os.environ | environment,
                input=given,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return " ".join(str(error).split())
        file.seek(0)
        lines = file.read().split("\n")
    if result.returncode == 0:
        return None
    last = [line.strip() for line in lines if line.strip()]
    return last[-1] if last else f"code {result.returncode}"
