"""Time the fused mixture against batch norm, multiplication and addition, map by map.

    python -m bench.mixture [--threads N] [--runs N] [--batch N] [--device cpu|cuda] [--json PATH]

At the shapes of a NAS-Bench-201 search (C=16): a node with K normalised and L plain inputs. Both
versions run forward and backward with the gradients of all maps and weights, in turn in one
process; medians are printed. `floor` is the memory traffic that the fused passes cannot do without
(forward: K maps for the statistics, K+L in and one out; backward: K+L and the gradient twice, K+L
out) at the bandwidth of a copy of one map, measured in the same run. On a GPU, graphs of ten calls
are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.timing import (
    RESULTS,
    alternate,
    graphed,
    leave_default_stream,
    machine,
    timer,
    write_json,
)
from snsoftmax import mixture

SHAPES = [(16, 32), (32, 16), (64, 8)]
MAPS = [(2, 2), (4, 4), (6, 6)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def case(
    batch: int,
    channels: int,
    size: int,
    k: int,
    plain: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[list[Tensor], Tensor]:
    """Inputs (normalised maps, plain maps, weights) that require gradients; one of the output."""

    def draw() -> Tensor:
        t = torch.randn(batch, channels, size, size, device=device).to(dtype)
        return t.to(memory_format=torch.channels_last).requires_grad_()

    weights = torch.rand(k + plain, device=device).requires_grad_()
    return [*(draw() for _ in range(k + plain)), weights], draw().detach()


def measure(
    batch: int,
    shape: tuple[int, int],
    maps: tuple[int, int],
    name: str,
    runs: int,
    device: torch.device,
) -> dict[str, float | int | str]:
    """One row of the table; milliseconds."""
    (channels, size), (k, plain) = shape, maps
    inputs, grad = case(batch, channels, size, k, plain, DTYPES[name], device)

    def step(function: Callable[..., Tensor]) -> Callable[[], object]:
        def run() -> object:
            out = function(inputs[:k], inputs[k:-1], inputs[-1])
            return torch.autograd.grad(out, inputs, grad)

        return run

    copy = torch.empty_like(grad)
    calls: list[Callable[[], object]] = [step(mixture), step(eager_mixture)]
    calls.append(lambda: copy.copy_(grad))
    repeats = 1
    if device.type == "cuda":
        repeats = 10
        leave_default_stream(device)
        calls = [graphed(call, repeats) for call in calls]
    fused, eager, copied = (t / repeats for t in alternate(calls, runs, timer(device)))
    passes = (2 * k + plain + 1) + (2 * k + plain + 2) + (k + plain)
    return {
        "dtype": name,
        "channels": channels,
        "size": size,
        "normalized": k,
        "plain": plain,
        "fused_ms": 1e3 * fused,
        "eager_ms": 1e3 * eager,
        "floor_ms": 1e3 * copied * passes / 2,
    }


def eager_mixture(normalized: Sequence[Tensor], plain: Sequence[Tensor], weights: Tensor) -> Tensor:
    """As a module-per-operation supernet does it: each map normalised, multiplied, added."""
    maps = [torch.nn.functional.batch_norm(y, None, None, training=True) for y in normalized]
    total = maps[0] * weights[0]
    for w, m in zip(weights[1:], [*maps[1:], *plain], strict=True):
        total = total + w * m
    return total


def main() -> None:
    """Measure every case, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.mixture", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=RESULTS / "mixture.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    rows = [
        measure(options.batch, shape, maps, name, options.runs, device)
        for name in DTYPES
        for shape in SHAPES
        for maps in MAPS
    ]
    table = Table(title=f"mixture, forward + backward, batch {options.batch}, {device}, ms")
    for column in ("dtype", "map", "K + L", "fused", "eager", "ratio", "floor", "of floor"):
        table.add_column(column, justify="right")
    for r in rows:
        fused, eager, floor = (float(r[f"{x}_ms"]) for x in ("fused", "eager", "floor"))
        table.add_row(
            str(r["dtype"]),
            f"{r['channels']}@{r['size']}x{r['size']}",
            f"{r['normalized']} + {r['plain']}",
            *(f"{fused:.2f}", f"{eager:.2f}", f"{eager / fused:.1f}x"),
            *(f"{floor:.2f}", f"{fused / floor:.2f}x"),
        )
    Console().print(table)
    record = {"machine": machine(device), "batch": options.batch, "rows": rows}
    write_json(options.json, record)
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
