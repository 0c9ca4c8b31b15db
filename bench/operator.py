"""Time sn-softmax against its eager composition, torch.compile and plain softmax.

    python -m bench.operator [--device cpu|cuda] [--runs N] [--json PATH] [--plot PATH]

Forward, backward and both, in turn in one process; medians. `eager` is the composition of
snsoftmax.reference, `compiled` the same under torch.compile, `plain` torch.softmax of the same
logits, which has neither temperature nor smooth term. `floor` is the traffic that remains for a
perfect kernel, read A and write p, then read A and g and write dA, at the speed of a copy of the
tensor measured in the same run. On a GPU large inputs rotate beyond the L2 cache and are timed as a
CUDA graph of one call for each, so that the GPU is measured and not Python; tiny shapes are timed
both ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.timing import (
    alternate,
    device_and_target,
    graphed,
    leave_default_stream,
    machine,
    option_parser,
    timer,
    write_json,
)
from snsoftmax import reference, sn_softmax

T, SCALE = 1e-3, 100.0
CASES = {
    "search, NB201": (6, 5),
    "search, DARTS space": (28, 8),
    "short rows": (1_000_000, 8),
    "attention": (8192, 1000),
    "vocabulary": (512, 50257),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Variant = Callable[[Tensor], Tensor]


def eager(a: Tensor) -> Tensor:
    """Algorithm 1 as a composition, what autograd makes of it."""
    return reference.sn_softmax(a, T, SCALE * T, -1)


def ours(a: Tensor) -> Tensor:
    """The fused operator."""
    return sn_softmax(a, T, scale=SCALE)


def plain(a: Tensor) -> Tensor:
    """Ordinary softmax, without a temperature."""
    return torch.softmax(a, -1)


def copies(like: Tensor) -> int:
    """How many inputs a GPU rotates through, so that none is found in a 128 MiB cache."""
    bytes_each = like.numel() * like.element_size()
    return 1 if not like.is_cuda or bytes_each < 2**16 else min(16, 2**28 // bytes_each + 1)


class Case:
    """Inputs of one shape and dtype, and the three passes of a variant over them."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        """Draw the logits at the size that DARTS initialises α with."""
        generator = torch.Generator().manual_seed(0)
        one = (1e-3 * torch.randn(shape, generator=generator)).to(device, dtype)
        self.inputs = [one.clone().requires_grad_() for _ in range(copies(one))]
        self.grad = torch.randn(shape, generator=generator).to(device, dtype)

    def passes(self, f: Variant) -> dict[str, Callable[[], object]]:
        """Forward, backward alone, and both, each over the next of the rotating inputs."""
        turn = itertools.cycle(range(len(self.inputs)))
        outputs = [f(a) for a in self.inputs]

        def backward() -> object:
            i = next(turn)
            return torch.autograd.grad(outputs[i], self.inputs[i], self.grad, retain_graph=True)

        def both() -> object:
            a = self.inputs[next(turn)]
            return torch.autograd.grad(f(a), a, self.grad)

        return {"forward": lambda: f(self.inputs[next(turn)]), "backward": backward, "both": both}

    def copy(self) -> Callable[[], object]:
        """A copy of the next of the rotating inputs: one read, one write."""
        turn = itertools.cycle(a.detach() for a in self.inputs)
        target = torch.empty_like(self.grad)
        return lambda: target.copy_(next(turn))


def measure(name: str, dtype: str, device: torch.device, runs: int) -> list[dict[str, Any]]:
    """Every pass of one case: microseconds of each variant, and the floor."""
    leave_default_stream(device)
    shape = CASES[name]
    case = Case(shape, DTYPES[dtype], device)
    torch._dynamo.reset()
    variants: dict[str, Variant] = {
        "ours": ours,
        "eager": eager,
        "compiled": torch.compile(eager, dynamic=False),
        "plain": plain,
    }
    passes = {variant: case.passes(f) for variant, f in variants.items()}
    tiny = shape[0] * shape[1] < 10_000
    inner = 300 if tiny else 1
    rows = []
    for kind, floors in (("forward", 1.0), ("backward", 1.5), ("both", 2.5)):
        calls = {variant: mine[kind] for variant, mine in passes.items()}
        calls["floor"] = case.copy()
        repeats = 1
        if device.type == "cuda" and tiny:
            calls |= {f"{v} graph": graphed(call) for v, call in list(calls.items())}
        elif device.type == "cuda":
            repeats = len(case.inputs)
            calls = {v: graphed(call, repeats) for v, call in calls.items()}
        times = alternate(list(calls.values()), runs, timer(device), inner)
        us = {v: 1e6 * t / repeats for v, t in zip(calls, times, strict=True)}
        us["floor"] *= floors
        rows.append({"case": name, "shape": list(shape), "dtype": dtype, "pass": kind, "us": us})
    return rows


def show(rows: list[dict[str, Any]], device: torch.device) -> None:
    """Print the table."""
    table = Table(title=f"sn_softmax on {device}: µs (medians), ratio = theirs / ours")
    for column in ("case", "dtype", "pass", "ours", "eager", "ratio", "compiled", "ratio"):
        table.add_column(column, justify="right")
    for column in ("plain", "ratio", "floor", "of the bandwidth"):
        table.add_column(column, justify="right")
    for r in rows:
        us = r["us"]
        cells = [f"{'x'.join(map(str, r['shape']))}", r["dtype"], r["pass"], f"{us['ours']:,.1f}"]
        for other in ("eager", "compiled", "plain"):
            cells += [f"{us[other]:,.1f}", f"{us[other] / us['ours']:.2f}x"]
        table.add_row(*cells, f"{us['floor']:,.1f}", f"{us['floor'] / us['ours']:.0%}")
    Console(width=140).print(table)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw how many times longer the alternatives take, forward and backward together."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    both = [r for r in rows if r["pass"] == "both" and r["dtype"] == "float32"]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for i, (other, colour) in enumerate(
        (("eager", "#c44e52"), ("compiled", "#dd8452"), ("plain", "#8c8c8c"))
    ):
        ratios = [r["us"][other] / r["us"]["ours"] for r in both]
        bars = axes.bar([j + 0.27 * (i - 1) for j in range(len(both))], ratios, 0.25, color=colour)
        label = {"plain": "plain torch.softmax", "compiled": "torch.compile"}.get(other, other)
        bars.set_label(label)
        axes.bar_label(bars, [f"{x:.1f}" for x in ratios], fontsize=8, padding=1)
    axes.axhline(1.0, color="#4c72b0", linewidth=1.5, label="sn_softmax")
    axes.set_yscale("log")
    axes.set_ylim(0.4, 100)
    axes.set_xticks(range(len(both)))
    axes.set_xticklabels([f"{r['case']}\n{r['shape'][0]:,} x {r['shape'][1]:,}" for r in both])
    axes.set_ylabel("time / time of sn_softmax")
    axes.set_title("Forward and backward, float32", loc="left", fontsize=10)
    axes.legend(fontsize=8, ncols=4, loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure every case, print the table, write JSON and plot."""
    options = option_parser("operator", __doc__, runs=11).parse_args()
    device, target = device_and_target(options)
    rows = [
        row
        for dtype in DTYPES
        for name in CASES
        for row in measure(name, dtype, device, options.runs)
    ]
    show(rows, device)
    write_json(target, {**machine(device), "temperature": T, "scale": SCALE, "rows": rows})
    plot(rows, options.plot or target.with_suffix(".png"))


if __name__ == "__main__":
    main()
