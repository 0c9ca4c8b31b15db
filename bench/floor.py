"""What a bilevel step of the DARTS space has to move and to compute, counted without a GPU.

    python -m bench.floor [--channels C] [--cells N] [--batch B] [--json PATH]

The supernet runs on PyTorch's `meta` device, where tensors have sizes and no values, by the path
that it takes on a GPU with kernels of our own: depthwise convolutions of a node from one read of
its map, one map for all that are separable and one for all that are dilated. Every operator of a
weight step and an arch step is counted: the bytes of the maps that it reads and writes, each once,
the multiplications and additions of convolutions, and its launches. So the time that is predicted
of them is a floor: no pass reads a map twice, no launch waits, and the device does nothing but move
maps or start kernels. Weights, statistics and optimisers are left out; together they are a few MB.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_flatten

from bench.rivals import CLASSES
from bench.step import Counter
from bench.timing import write_json
from darts.spaces import DARTS, Space
from darts.supernet import build_supernet
from darts.supernet.step import cross_entropy, frozen, weight_step

BANDWIDTH = 3.35e12
"""Bytes a second of an H100 SXM's memory, from its data sheet."""
LAUNCH = 2.4e-6
"""Seconds from one kernel's start to the next inside a CUDA graph, measured on an H100."""
LAUNCHES = {
    "snsoftmax::mixture_forward": 3,
    "snsoftmax::mixture_statistics": 2,
    "snsoftmax::mixture_backward": 3,
    "snsoftmax::depthwise_backward_weight": 2,
    "aten::convolution_backward": 2,
}
"""Kernels of the operators that start more than one; cuDNN's own copies of maps are not known."""
NO_KERNEL = {"aten::new_empty", "aten::promote_types", "aten::ones"}
"""Operators that start nothing, or make a constant that later steps find."""
ITEM = {"float32": 4, "bfloat16": 2}
"""Bytes of an element of a map in each precision."""


@dataclass
class Family:
    """What the operators of one name do in a step; maps in elements."""

    calls: int = 0
    read: int = 0
    written: int = 0
    operations: int = 0


@dataclass
class Count:
    """A step's operators by name."""

    families: dict[str, Family]

    @property
    def launches(self) -> int:
        """Kernels that are started."""
        return sum(f.calls * LAUNCHES.get(name, 1) for name, f in self.families.items())

    @property
    def operations(self) -> int:
        """Multiplications and additions of the convolutions."""
        return sum(f.operations for f in self.families.values())

    def bytes(self, precision: str) -> int:
        """Of maps, moved."""
        return ITEM[precision] * sum(f.read + f.written for f in self.families.values())

    def predicted(self, precision: str) -> dict[str, float]:
        """Milliseconds that the memory and that the launches take, each alone."""
        return {
            "memory": 1e3 * self.bytes(precision) / BANDWIDTH,
            "launches": 1e3 * self.launches * LAUNCH,
        }


def sizes(values: object) -> list[int]:
    """Elements of the tensors in a nest of values."""
    return [x.numel() for x in tree_flatten(values)[0] if isinstance(x, Tensor)]


def pixels(maps: Any) -> int:
    """Of each of the maps, which are of one size."""
    n, _, h, w = maps[0].shape
    return int(n * h * w)


def operations(name: str, args: Sequence[Any], out: object) -> int:
    """Multiplications and additions of convolutions and products, 0 of anything else."""
    count = 0
    match name:
        case "aten::convolution":
            count = 2 * sum(sizes(out)) * args[1][0].numel()
        case "aten::convolution_backward":
            count = 2 * args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
        case "aten::bmm":
            count = 2 * args[0].numel() * args[1].shape[-1]
        case "snsoftmax::depthwise":
            count = 2 * pixels(out) * sum(sizes(args[1]))
        case "snsoftmax::depthwise_backward_map":
            count = 2 * pixels(args[0]) * sum(sizes(args[1]))
        case "snsoftmax::depthwise_backward_weight":
            count = 2 * pixels(args[0]) * sum(sizes(args[2]))
    return count


class ByName(Counter):
    """Counts elements instead of maps, apart for each operator."""

    def __init__(self, smallest: int) -> None:
        super().__init__(smallest)
        self.families: dict[str, Family] = {}

    def maps(self, values: object) -> int:
        """How many elements the maps in a nest of values have."""
        return sum(n for n in sizes(values) if n >= self.smallest)

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        before = replace(self.counts)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = func.name().split(".")[0]
        family = self.families.setdefault(name, Family())
        family.calls += int(self.counts.operators - before.operators)
        family.read += int(self.counts.read - before.read)
        family.written += int(self.counts.written - before.written)
        family.operations += operations(name, args, out)
        return out


def count(space: Space, channels: int, cells: int, batch: int) -> Count:
    """One bilevel step of `space`: the gradient of ω, and that of β."""
    with torch.device("meta"):
        net = build_supernet(space, channels=channels, cells=cells, classes=CLASSES)
        pair = torch.empty(batch, 3, 32, 32), torch.empty(batch, dtype=torch.int64)
        beta = {
            name: torch.empty(cell.shape, requires_grad=True) for name, cell in space.cells.items()
        }
    with ByName(smallest=batch * channels * 8 * 8 // 2) as counter:
        weight_step(net, pair, beta)
        with frozen(net):
            loss, _ = cross_entropy(net, pair, beta)
            torch.autograd.grad(loss, list(beta.values()))
    families = {
        name: f for name, f in counter.families.items() if f.calls and name not in NO_KERNEL
    }
    return Count(families)


def show(found: Count, title: str) -> None:
    """Print the families that move most, and what the whole step would take."""
    table = Table(title=title)
    for column in ("operator", "calls", "launches", "GB float32", "GB bfloat16", "GFLOP"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    ordered = sorted(found.families.items(), key=lambda pair: -pair[1].read - pair[1].written)
    for name, family in ordered:
        alone = Count({name: family})
        moved = (f"{alone.bytes(precision) / 1e9:.2f}" for precision in ITEM)
        flops = f"{family.operations / 1e9:.1f}" if family.operations else ""
        table.add_row(name, str(family.calls), str(alone.launches), *moved, flops)
    moved = (f"{found.bytes(precision) / 1e9:.2f}" for precision in ITEM)
    calls = sum(f.calls for f in found.families.values())
    flops = f"{found.operations / 1e9:.1f}"
    table.add_row("all", str(calls), str(found.launches), *moved, flops, style="bold")
    Console(width=110).print(table)
    for precision in ITEM:
        alone_ms = (f"{what} {ms:.1f} ms" for what, ms in found.predicted(precision).items())
        print(f"predicted of an H100 in {precision}, each alone: {', '.join(alone_ms)}")


def main() -> None:
    """Count, print and, where asked for, write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.floor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the counts here as well")
    options = parser.parse_args()
    size = {name: getattr(options, name) for name in ("channels", "cells", "batch")}
    found = count(DARTS, **size)
    show(
        found,
        "A bilevel step of the DARTS space, " + ", ".join(f"{k} {v}" for k, v in size.items()),
    )
    if options.json is not None:
        write_json(options.json, {**size, **asdict(found)})


if __name__ == "__main__":
    main()
