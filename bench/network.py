"""Images a second of training a found network, against the same network of PyTorch's modules.

    python -m bench.network [--device cpu|cuda] [--runs N] [--cells N] [--channels C] [--batch B]
                            [--json PATH]

The network is DARTS's own (V2 of Liu et al., 2019); on a GPU at the size of its evaluation (20
cells, C=36, batch 96), on a CPU at a small one. A step is forward, backward and SGD with momentum
on random images of 3x32x32. The conventional network runs as it is and by torch.compile, on a GPU
each also as a CUDA graph; all take turns in one process, and medians are compared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.rivals import CLASSES, Step
from bench.step import PRECISIONS
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
from darts.networks.network import build_network
from tests.darts.networks.test_genotype import DARTS_V2
from tests.reference.supernet import conventional

SIZES = {"cuda": (20, 36, 96), "cpu": (8, 16, 32)}
"""Cells, channels and batch on each device."""


def training_step(
    net: nn.Module, images: Tensor, labels: Tensor, precision: str, captured: bool
) -> Step:
    """A step of SGD, as a graph if `captured`."""
    sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4, fused=captured)
    half = precision == "bfloat16"

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            logits = net(images)
        F.cross_entropy(logits.float(), labels).backward()
        sgd.step()

    if captured:
        step()  # what is made once is not part of the graph
    return graphed(step) if captured else step


def variants(
    device: torch.device, cells: int, channels: int, batch: int, precision: str
) -> dict[str, Step]:
    """Ours first; each has weights of its own."""
    images = torch.randn(batch, 3, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def network() -> nn.Module:
        torch.manual_seed(0)
        net = build_network(DARTS_V2, channels=channels, cells=cells, classes=CLASSES)
        moved: nn.Module = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return moved

    def compiled() -> nn.Module:
        return torch.compile(conventional(network()))  # type: ignore[return-value]

    makers = {
        "ours": network,
        "conventional": lambda: conventional(network()),
        "conventional, torch.compile": compiled,
    }
    return {
        name + (", a graph" if captured else ""): training_step(
            make(), images, labels, precision, captured
        )
        for captured in ((False, True) if device.type == "cuda" else (False,))
        for name, make in makers.items()
    }


def main() -> None:
    """Measure each precision, print the table, write the JSON."""
    parser = option_parser("network", __doc__, runs=9)
    for position, name in enumerate(("cells", "channels", "batch")):
        sizes = ", ".join(f"{size[position]} on {device}" for device, size in SIZES.items())
        parser.add_argument(f"--{name}", type=int, help=f"[{sizes}]")
    options = parser.parse_args()
    device, target = device_and_target(options)
    leave_default_stream(device)
    asked = options.cells, options.channels, options.batch
    cells, channels, batch = (a or d for a, d in zip(asked, SIZES[device.type], strict=True))
    rows = []
    table = Table(title=f"Training, {cells} cells, C={channels}, batch {batch}, {device}")
    for column in ("network", "precision", "images a second", "ms a step", "ours is"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for precision in PRECISIONS:
        steps = variants(device, cells, channels, batch, precision)
        seconds = alternate(list(steps.values()), options.runs, timer(device))
        for name, each in zip(steps, seconds, strict=True):
            row = {"network": name, "precision": precision, "images_a_second": batch / each}
            rows.append(row)
            ratio = f"{each / seconds[0]:.2f}x"
            speed = f"{batch / each:.1f}"
            table.add_row(name, precision, speed, f"{1e3 * each:.1f}", ratio)
    Console(width=110).print(table)
    size = {"cells": cells, "channels": channels, "batch": batch}
    write_json(target, {"machine": machine(device), **size, "rows": rows})
    print(f"written to {target}")


if __name__ == "__main__":
    main()
