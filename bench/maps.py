"""What the benchmarks of operators on maps share: two versions of one case, both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.timing import alternate, device_and_target, machine, option_parser, timer, write_json

Outputs = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Case:
    """The same outputs of the same inputs by two routes."""

    name: str
    dtype: str
    inputs: Sequence[Tensor]
    """What gradients are asked of; of nothing where it is timed as it is."""
    ours: Outputs
    theirs: Outputs


def draw(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A random map or filter that requires a gradient, channels last."""
    values = torch.randn(shape, device=device).to(dtype)
    return values.to(memory_format=torch.channels_last).requires_grad_()


def both_ways(case: Case, outputs: Outputs) -> Callable[[], object]:
    """Forward, and backward from the same gradients at every call."""
    if not case.inputs:
        return outputs
    grads = [torch.randn_like(y) for y in outputs()]
    return lambda: torch.autograd.grad(list(outputs()), list(case.inputs), grads)


def main(name: str, doc: str | None, cases: Callable[[torch.device], Iterable[Case]]) -> None:
    """Measure every case of `bench.NAME`, print the table, write the JSON."""
    options = option_parser(name, doc, runs=20).parse_args()
    device, target = device_and_target(options)
    rows = []
    table = Table(title=f"{name}, forward + backward, {device}, ms")
    for column in ("case", "dtype", "ours", "PyTorch", "ratio"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case in cases(device):
        calls = [both_ways(case, case.ours), both_ways(case, case.theirs)]
        ours, theirs = (1e3 * t for t in alternate(calls, options.runs, timer(device)))
        rows.append({"case": case.name, "dtype": case.dtype, "ours_ms": ours, "theirs_ms": theirs})
        table.add_row(
            case.name, case.dtype, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}x"
        )
    Console().print(table)
    write_json(target, {"machine": machine(device), "rows": rows})
    print(f"written to {target}")
