"""What a GPU is asked, the most informative first; read off the tree, so that nothing is forgotten.

Seconds are estimates for an H100, to be replaced by what is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.gpu.queue import Task
from darts.study import Study, read_study

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
STATE = ("csrc", "snsoftmax", "darts", "bench", "tests", "setup.py", "studies")
"""What the results depend on."""
SUFFIXES = (".py", ".h", ".cpp", ".cu", ".txt", ".yaml")
SANITIZERS = {"memcheck": 120.0, "racecheck": 180.0, "synccheck": 120.0}
"""Tools, and seconds that one kernel's tests take under each."""
WATCHED = "not torch.float64 and not torch.float16"
"""Of a kernel's device tests: the other dtypes run the same code."""
PROFILE = "full"
"""Of the studies: the paper's scale."""
WORKERS = 4
"""Searches that share the GPU; more gain little (docs/performance.md)."""


def state(device: str, root: Path = ROOT) -> str:
    """What is measured, as one value: the sources, PyTorch's release and the GPU's name."""
    found = hashlib.sha256(f"{torch.__version__} {torch.version.cuda} {device}".encode())
    for name in STATE:
        path = root / name
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in below:
            if file.suffix in SUFFIXES and file.is_file():
                found.update(f"\n{file.relative_to(root)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def kernels(root: Path = ROOT) -> list[str]:
    """The kernels that a GPU runs: with a CUDA source, and an operator that launches it."""
    found = {path.parent.name for path in (root / "csrc/kernels").glob("*/*.cu")}
    operators = "".join(path.read_text() for path in (root / "csrc/torch").rglob("*.cpp"))
    return sorted(name for name in found if f'#include "{name}/' in operators)


def watching(kernel: str, root: Path = ROOT) -> list[str]:
    """Files of tests/snsoftmax whose device tests launch a kernel."""
    files = sorted((root / "tests/snsoftmax").glob(f"test_{kernel}*.py"))
    return [str(path.relative_to(root)) for path in files]


def compute_sanitizer() -> str | None:
    """The program, where CUDA's toolkit is installed."""
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    name = "compute-sanitizer"
    return shutil.which(name) or shutil.which(name, path=f"{toolkit}/bin")


def tasks(
    folder: Path, scratch: Path, code: str, told: Callable[[str], object] = print
) -> list[Task]:
    """All tasks, in their order; what this machine lacks is told and left out.

    Args:
        folder: of the results.
        scratch: a folder for what need not be kept.
        code: the `state`.
        told: takes a line.
    """
    pytest = [PYTHON, "-m", "pytest", "-q", "-m", "gpu", "--device", "cuda"]
    record = folder / "tests.json"
    noted = ["-p", "bench.gpu.passed", "--record", str(record), "--state", code]
    every = [*pytest, *noted, "--seconds", "{seconds}", "tests"]
    found = [Task("tests", every, 60.0, left=lambda: int(json.loads(record.read_text())["left"]))]
    if tool := compute_sanitizer():
        for sanitizer, seconds in SANITIZERS.items():
            prefix = [tool, "--tool", sanitizer, "--error-exitcode", "9"]
            for kernel in kernels():
                command = [*prefix, *pytest, "-x", "-k", WATCHED, *watching(kernel)]
                found.append(Task(f"{sanitizer} {kernel}", command, seconds))
    else:
        told("== compute-sanitizer is not installed; its tasks are left out")
    bench = [PYTHON, "-m"]
    step = [*bench, "bench.step", "--device", "cuda", "--out", str(folder / "step.json")]
    search = [*bench, "darts", "search", "--space", "nb201", "--method", "edd", "--data", "digits"]
    search += ["--epochs", "12", "--device", "cuda", "--out", str(scratch / "search")]
    operator = [*bench, "bench.operator", "--device", "cuda"]
    operator += ["--json", str(folder / "operator.json")]
    found.append(Task("step", step, 300.0))
    found.append(Task("search", search, 60.0, results=[scratch / "search/log.jsonl"]))
    found.append(Task("operator", operator, 180.0))
    return [*found, *studies(told)]


def studies(told: Callable[[str], object]) -> Iterator[Task]:
    """The studies at the paper's scale, where their data lie."""
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        study = read_study(path, PROFILE)
        if lacking := lacks(study):
            told(f"== study {path.stem}: left out, there is no {lacking}")
            continue
        command = [PYTHON, "-m", "darts", "study", path.stem, "--profile", PROFILE]
        command += ["--workers", str(WORKERS), "--minutes", "{minutes}"]
        tables = [study.out / f"{study.name}.{kind}" for kind in ("json", "md")]
        yield Task(
            f"study {path.stem}",
            command,
            120.0,
            left=lambda study=study: unfinished(study),  # type: ignore[misc]
            results=[ROOT / table for table in tables],
        )


def unfinished(study: Study) -> int:
    """Cells of a study that are not finished."""
    return sum(not cell.finished for cell in study.cells)


def lacks(study: Study) -> Path | None:
    """A file or folder that the study's cells read and that is not there."""

    def read(config: Mapping[str, Any]) -> list[str]:
        data = config.get("data", {})
        source = str(data.get("source", ""))
        place = source if Path(source).suffix else data.get("root")
        return [str(p) for p in (config.get("nb201"), data.get("split"), place) if p]

    configs = [c for cell in study.cells for c in (cell.config, *cell.evaluations.values())]
    for name in dict.fromkeys(name for config in configs for name in read(config)):
        if not (ROOT / name).exists():
            return Path(name)
    return None
