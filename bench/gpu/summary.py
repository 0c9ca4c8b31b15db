"""What the results say: the operator's targets, and all of it as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from bench.gpu.queue import STOPPED

MEBIBYTE = 2**20


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


def markdown(
    about: Mapping[str, Any],
    state: str,
    tasks: Mapping[str, Mapping[str, Any]],
    operator: Mapping[str, Any],
    step: Mapping[str, Any],
) -> str:
    """Render the results for people.

    Args:
        about: the machine, as `bench.timing.machine` gives it.
        state: see `bench.gpu.tasks.state`; what another state gave is marked.
        tasks: as in tasks.json.
        operator: as in operator.json; empty if it has not been measured.
        step: as in step.json; likewise.
    """
    lines = [
        f"# {about['device']}, {about['date']}",
        "",
        f"Commit `{about['commit']}`, CUDA {about['build']['cuda']}, "
        f"PyTorch {about['build']['torch']}.",
        "",
        "| task | result | seconds | date |",
        "| --- | --- | ---: | --- |",
    ]
    for name, task in tasks.items():
        ending = {0: "passed", STOPPED: "stopped at its limit"}
        result = ending.get(task["code"], f"failed ({task['code']})")
        if task["left"]:
            result += f", {task['left']} left"
        if task["state"] != state:
            result += ", before the last change"
        lines.append(f"| {name} | {result} | {task['seconds']} | {task['date']} |")
    rows = operator.get("rows", [])
    lines += ["", "| rows | dtype | pass | target | wanted | reached | |"]
    lines += ["| --- | --- | --- | --- | ---: | ---: | --- |"]
    for t in targets(rows):
        cells = [t["case"], t["dtype"], t["pass"], t["target"], t["wanted"], t["reached"]]
        lines.append(f"| {' | '.join(map(str, cells))} | {'met' if t['met'] else 'missed'} |")
    lines += ["", "| rows | dtype | pass | variant | µs |", "| --- | --- | --- | --- | ---: |"]
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        for variant, us in row["us"].items():
            lines.append(f"| {shape} | {row['dtype']} | {row['pass']} | {variant} | {us:.1f} |")
    lines += ["", "| supernet | variant | ms a step | peak MiB |", "| --- | --- | ---: | ---: |"]
    for space in ("nb201", "darts"):
        for variant in step.get(space, []):
            ms, mebibytes = 1e3 * median(variant["times"]), variant["peak_bytes"] / MEBIBYTE
            lines.append(f"| {space} | {variant['name']} | {ms:.1f} | {mebibytes:.0f} |")
    return "\n".join(lines) + "\n"
