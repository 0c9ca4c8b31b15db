"""Everything that needs a GPU, in one command: build, test, sanitize, benchmark, search.

    python -m bench.gpu [--out FOLDER]

Writes FOLDER/gpu-DATE-DEVICE.json and the same as a Markdown table (FOLDER is bench/results by
default), with the commit, the device, what the operator and a supernet's step take, and whether
each target of the operator was met:

    bandwidth  at least 90% of the measured copy bandwidth for tensors of 64 MiB and more
    eager      at least 4 times faster than the eager composition, forward and backward
    compiled   not slower than torch.compile anywhere

The checks share the GPU, to be done sooner; the benchmarks have it to themselves. Exits with 1
where a step failed or a target was missed, after the results are written; without a GPU at once,
and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
MEBIBYTE = 2**20
LIMIT = 3600
"""Seconds for a step."""
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck")
KERNELS = "(every_regime and (torch.float32 or torch.bfloat16)) or test_mixture"
"""Which device tests the sanitizers watch."""


@dataclass(frozen=True)
class Step:
    """One command: what it was, how it ended (0 is success), how long it took, its last lines."""

    name: str
    command: str
    code: int
    seconds: float
    tail: str


def require_gpu() -> torch.device:
    """Return the device, or end the program with a sentence that says what is missing."""
    if torch.version.cuda is None:
        raise SystemExit(
            f"bench.gpu needs a GPU, and this PyTorch ({torch.__version__}) is built without CUDA."
        )
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a GPU, and PyTorch finds none that it can use here.")
    return torch.device("cuda", torch.cuda.current_device())


def run(name: str, command: list[str], limit: float, **environment: str) -> Step:
    """Run a command of at most `limit` seconds from the repository's root."""
    shown = " ".join(command).replace(PYTHON, "python")
    print(f"== {name}: {shown}", flush=True)
    start = time.perf_counter()
    try:
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
        code, output = result.returncode, result.stdout
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or ""
        if isinstance(printed, bytes):  # what came before the limit is never decoded
            printed = printed.decode(errors="replace")
        code, output = 124, f"{printed}\nstopped after {limit:.0f} seconds"
    seconds = time.perf_counter() - start
    tail = "\n".join(output.splitlines()[-40:])
    result_is = "done" if code == 0 else f"failed ({code})"
    print(f"{tail}\n== {name}: {result_is} in {seconds:.0f} s", flush=True)
    return Step(name, shown, code, round(seconds, 1), tail)


def checks() -> list[Step]:
    """The device tests, and some of them under compute-sanitizer where the toolkit has one."""
    pytest = [PYTHON, "-m", "pytest", "-q", "-m", "gpu", "--device", "cuda", "tests"]
    commands = {"tests": pytest}
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin"
    )
    if tool is None:
        print("== compute-sanitizer is not installed; its steps are left out.", flush=True)
    else:
        sanitized = [*pytest[:-1], "tests/snsoftmax/test_cuda.py", "-x", "-k", KERNELS]
        for check in SANITIZER_TOOLS:
            options = ["--tool", check, "--error-exitcode", "9"]
            commands[f"compute-sanitizer {check}"] = [tool, *options, *sanitized]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda item: run(item[0], item[1], LIMIT), commands.items()))


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the operator benchmark's rows with what was aimed at."""
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
    results = []
    for row in rows:
        us, elements = row["us"], row["shape"][0] * row["shape"][1]
        large = elements * sizes[row["dtype"]] >= 64 * MEBIBYTE
        checks = {"compiled": (us["compiled"] / us["ours"], 1.0)}
        if row["pass"] == "both":
            checks["eager"] = (us["eager"] / us["ours"], 4.0)
        if large:
            checks["bandwidth"] = (us["floor"] / us["ours"], 0.9)
        if "ours graph" in us:
            checks["compiled graph"] = (us["compiled graph"] / us["ours graph"], 1.0)
        for name, (reached, wanted) in checks.items():
            results.append(
                {
                    "case": "x".join(map(str, row["shape"])),
                    "dtype": row["dtype"],
                    "pass": row["pass"],
                    "target": name,
                    "wanted": wanted,
                    "reached": round(reached, 3),
                    "met": reached >= wanted,
                }
            )
    return results


def markdown(record: dict[str, Any]) -> str:
    """Render a record for people."""
    about = record["machine"]
    lines = [
        f"# {about['device']}, {about['date']}",
        "",
        f"Commit `{about['commit']}`, CUDA {about['build']['cuda']}, "
        f"PyTorch {about['build']['torch']}.",
        "",
        "| step | result | seconds |",
        "| --- | --- | ---: |",
    ]
    for step in record["steps"]:
        failed = "stopped at its limit" if step["code"] == 124 else f"failed ({step['code']})"
        result = "passed" if step["code"] == 0 else failed
        lines.append(f"| {step['name']} | {result} | {step['seconds']} |")
    lines += ["", "| rows | dtype | pass | target | wanted | reached | |"]
    lines += ["| --- | --- | --- | --- | ---: | ---: | --- |"]
    for t in record["targets"]:
        cells = [t["case"], t["dtype"], t["pass"], t["target"], t["wanted"], t["reached"]]
        lines.append(f"| {' | '.join(map(str, cells))} | {'met' if t['met'] else 'missed'} |")
    lines += ["", "| rows | dtype | pass | variant | µs |", "| --- | --- | --- | --- | ---: |"]
    for row in record["operator"]:
        shape = "x".join(map(str, row["shape"]))
        for variant, us in row["us"].items():
            lines.append(f"| {shape} | {row['dtype']} | {row['pass']} | {variant} | {us:.1f} |")
    lines += ["", "| supernet | variant | ms a step | peak MiB |", "| --- | --- | ---: | ---: |"]
    for space, variants in record["supernets"].items():
        for variant in variants:
            ms, mebibytes = 1e3 * median(variant["times"]), variant["peak_bytes"] / MEBIBYTE
            lines.append(f"| {space} | {variant['name']} | {ms:.1f} | {mebibytes:.0f} |")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(path.suffix + ".part")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def main() -> int:
    """Run all steps; 1 where one failed or a target was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results")
    options = parser.parse_args()
    device = require_gpu()

    build = run("build", [PYTHON, "setup.py", "build_ext", "--inplace"], LIMIT, SNSOFTMAX_CUDA="1")
    if build.code != 0:
        raise SystemExit("bench.gpu stops here: the extension could not be built (see above).")
    steps = [build, *checks()]
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for benchmark, option in (("operator", "--json"), ("step", "--out")):
            result = Path(name) / f"{benchmark}.json"
            command = [PYTHON, "-m", f"bench.{benchmark}", "--device", "cuda", option, str(result)]
            steps.append(run(f"{benchmark} benchmark", command, LIMIT))
            measured[benchmark] = json.loads(result.read_text()) if result.exists() else {}
        search = [PYTHON, "-m", "darts", "search", "--space", "nb201", "--method", "edd"]
        search += ["--data", "digits", "--epochs", "12", "--device", "cuda"]
        steps.append(run("search", [*search, "--out", str(Path(name) / "search")], LIMIT))
    rows = measured["operator"].get("rows", [])
    supernets = {name: measured["step"].get(name, []) for name in ("nb201", "darts")}

    from bench.timing import machine  # needs the extension that was just built

    about = machine(device)
    record: dict[str, Any] = {
        "machine": about,
        "steps": [asdict(step) for step in steps],
        "targets": targets(rows),
        "operator": rows,
        "supernets": supernets,
    }
    label = re.sub(r"[^a-z0-9]+", "-", str(about["device"]).lower()).strip("-")
    target = options.out / f"gpu-{about['date'][:10]}-{label}.json"
    write(target, json.dumps(record, indent=1) + "\n")
    write(target.with_suffix(".md"), markdown(record))
    print(f"Results: {target} and {target.with_suffix('.md').name}")
    failed = [step.name for step in steps if step.code != 0]
    missed = [t for t in record["targets"] if not t["met"]]
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    if missed:
        print(f"{len(missed)} of {len(record['targets'])} targets were missed.")
    return int(bool(failed or missed))


if __name__ == "__main__":
    raise SystemExit(main())
