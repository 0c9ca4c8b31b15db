"""What every benchmark shares: options, alternating medians, the machine, atomic JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from snsoftmax import build_info

RESULTS = Path(__file__).resolve().parent / "results"


def option_parser(name: str, description: str | None, *, runs: int) -> argparse.ArgumentParser:
    """Options of `bench.NAME`: --device, --runs (by default `runs`), --json, --plot."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--runs", type=int, default=runs, help=f"timed rounds [{runs}]")
    parser.add_argument("--json", type=Path, help=f"result [bench/results/{name}-DEVICE.json]")
    parser.add_argument("--plot", type=Path, help="drawing [the JSON's name with .png]")
    parser.set_defaults(name=name)
    return parser


def device_and_target(options: argparse.Namespace) -> tuple[torch.device, Path]:
    """Where to measure and where to write, as the options of `option_parser` say.

    Raises:
        SystemExit: a GPU is asked for and there is none.
    """
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: this machine has no usable GPU.")
    return device, options.json or RESULTS / f"{options.name}-{device.type}.json"


def timer(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that waits for all work given to the device."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def alternate(
    functions: Sequence[Callable[[], object]],
    runs: int,
    now: Callable[[], float],
    inner: int = 1,
) -> list[float]:
    """Median seconds a call of each function, run in turn so that drift hits all alike.

    Each of `runs` rounds (after two that warm up) times `inner` calls of every function.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for run in range(runs + 2):
        for function, mine in zip(functions, seconds, strict=True):
            start = now()
            for _ in range(inner):
                function()
            if run >= 2:
                mine.append((now() - start) / inner)
    return [statistics.median(mine) for mine in seconds]


def leave_default_stream(device: torch.device) -> None:
    """On a GPU: the default stream records nothing, and backward runs where forward did."""
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def graphed(call: Callable[[], object], times: int = 1) -> Callable[[], object]:
    """So many calls as the replay of a CUDA graph, recorded on the current stream."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(times):
            call()
    return graph.replay


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where and from what a result comes."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "build": build_info(),
    }


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, path)
