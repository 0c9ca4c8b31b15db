"""Everything that needs a GPU, as far as the time goes: tests, sanitizers, benchmarks, studies.

    python -m bench.gpu [--minutes M] [--only NAME ...] [--out FOLDER]

The most informative comes first: device tests, every kernel of our own under compute-sanitizer, a
supernet's step, a whole search, the operator, then the studies at the paper's scale where their
data lie. What cannot end in the M minutes is not started, by what it took the last time or an
estimate; every result is in FOLDER (bench/results/gpu-DEVICE by default) the moment it exists; and
the same command goes on with what has not passed on this state of the sources, with failures last.
`--only` runs tasks by name, those named tests or memcheck for example, whether passed or not.

FOLDER, to be committed as it is, holds tasks.json and tests.json, the benchmarks' JSON, the
studies' tables, and README.md, which says of the operator whether each target was met:

    bandwidth  at least 90% of the measured copy bandwidth for tensors of 64 MiB and more
    eager      at least 4 times faster than the eager composition, forward and backward
    compiled   not slower than torch.compile anywhere

An extension that fits is used, from snsoftmax/ or from build/cross (`make cross`), else one is
built, which takes minutes. Exits with 1 where a task of this state has failed; without a GPU at
once, and nothing is written.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu import extension

ROOT = extension.ROOT
BUILD = 600.0
"""Seconds that a build may take, where it is not known that there are so many."""


def require_gpu() -> torch.device:
    """Return the device, or end the program with a sentence that says what is missing."""
    if torch.version.cuda is None:
        raise SystemExit(
            f"bench.gpu needs a GPU, and this PyTorch ({torch.__version__}) is built without CUDA."
        )
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a GPU, and PyTorch finds none that it can use here.")
    return torch.device("cuda", torch.cuda.current_device())


def require_extension(device: torch.device, left: float) -> None:
    """Use the extension that is there, one that was carried here, or build one.

    Raises:
        SystemExit: none fits, and a build fails or cannot end in the `left` seconds.
    """
    capability = torch.cuda.get_device_capability(device)
    wrong = extension.misfit(ROOT / "snsoftmax", capability)
    if wrong is None:
        return
    print(f"== the extension in snsoftmax does not fit: {wrong}", flush=True)
    if package := extension.carried(capability):
        print(f"== that of {package.parent} does", flush=True)
        extension.put_in_place(package)
        return
    if left < BUILD:
        raise SystemExit(
            f"bench.gpu stops here: to build the extension takes up to {BUILD:.0f} seconds, and "
            f"{left:.0f} are left; `make cross` builds it on another machine."
        )
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = os.environ | {"SNSOFTMAX_CUDA": "1"}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise SystemExit("bench.gpu stops here: the extension could not be built (see above).")


def main() -> int:
    """Run what the time allows; 1 where a task of this state has failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time for all of it")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tasks whose name begins so")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g} must be above 0")
    end = time.monotonic() + 60 * options.minutes
    device = require_gpu()
    require_extension(device, end - time.monotonic())

    # Needs the extension.
    from bench.gpu import queue, summary, tasks
    from bench.timing import machine
    from darts.files import write_text

    name = torch.cuda.get_device_name(device)
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder = (options.out or ROOT / "bench/results" / f"gpu-{label}").resolve()
    ledger = queue.Ledger(folder, tasks.state(name), machine(device))

    def read(file: str) -> dict[str, Any]:
        path = folder / file
        return json.loads(path.read_text()) if path.is_file() else {}

    def summarise() -> None:
        measured = read("operator.json"), read("step.json")
        write_text(
            folder / "README.md",
            summary.markdown(ledger.about, ledger.state, ledger.tasks, *measured),
        )

    with tempfile.TemporaryDirectory() as scratch:
        every = tasks.tasks(folder, Path(scratch), ledger.state)
        queue.work(
            queue.chosen(every, options.only),
            ledger,
            functools.partial(queue.run_command, now=time.monotonic, folder=ROOT),
            left=lambda: end - time.monotonic(),
            told=functools.partial(print, flush=True),
            again=bool(options.only),
            ended=summarise,
        )
    print(f"Results: {folder}")
    failed = [task.name for task in every if ledger.failed(task)]
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
