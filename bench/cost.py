"""What the studies cost at the paper's scale, from steps measured here.

``python -m bench.cost [--device cpu|cuda]`` measures a training step of every supernet and network
that the full profiles need, and counts steps. On a GPU the batch is the profile's, and a search's
step is a CUDA graph; on a CPU the batch is small, since cost grows with it in proportion there (see
docs/performance.md). What a method costs beside first-order DARTS is taken from the study
`methods`, which ran on a CPU. Writes ``bench/results/cost.json``, on a GPU ``cost-cuda.json``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from bench.reproduction import STUDIES, load
from bench.rivals import CLASSES, Size, Step
from bench.step import search_step
from bench.timing import RESULTS, alternate, machine, timer, write_json
from darts.devices.capture import WARM_UP
from darts.networks.network import build_network
from darts.spaces import Space, get_space
from darts.study import Cell, read_study
from darts.training.evaluation_config import EvaluationConfig, configure_evaluation

IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257, "imagenet": 1_281_167}
"""Training images of each data set."""
LARGE = ("imagenet",)
"""Data sets of 224 x 224 images."""
BATCH, LARGE_BATCH = 8, 1
"""Images in the steps that are measured on a CPU."""
RUNS = 3


def seconds(step: Step, device: torch.device) -> float:
    """Median of a few steps, after those that a captured one needs to become a graph."""
    for _ in range(WARM_UP if device.type == "cuda" else 0):
        step()
    return alternate([step], RUNS, timer(device))[0]


def training_step(
    space: Space, settings: EvaluationConfig, batch: int, device: torch.device
) -> Step:
    """One step of a stand-alone network of `space`, as an evaluation takes it."""
    torch.manual_seed(0)
    beta = {name: torch.rand(cell.shape) for name, cell in space.cells.items()}
    large = settings.data.source in LARGE
    net = build_network(
        space.derive(beta),
        channels=settings.network.channels,
        cells=settings.network.cells,
        classes=CLASSES,
        large=large,
    ).to(device)
    images = torch.randn(batch, 3, *((224, 224) if large else (32, 32)), device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9)

    def step() -> None:
        sgd.zero_grad()
        out = net(images)
        F.cross_entropy(out[0] if isinstance(out, tuple) else out, labels).backward()
        sgd.step()

    return step


class Meter:
    """Seconds an image of everything asked for; each thing is measured once."""

    def __init__(self, factors: Mapping[str, float], device: torch.device) -> None:
        self.factors = factors
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.known: dict[str, float] = {}

    def _once(self, key: str, make: Callable[[], Step], batch: int) -> float:
        if key not in self.known:
            self.known[key] = seconds(make(), self.device) / batch
            print(f"{key}: {1e3 * self.known[key]:.1f} ms an image", flush=True)
        return self.known[key]

    def search(self, cell: Cell) -> float:
        """Seconds of the whole search."""
        config = cell.config
        supernet = config["supernet"]
        batch = config["data"]["batch_size"] if self.on_gpu else BATCH
        size = Size(supernet["channels"], supernet["cells"], batch, str(self.device))
        key = f"bilevel step, {config['space']}, C={size.channels}, N={size.cells}, batch {batch}"
        space = get_space(config["space"])
        make = lambda: search_step("darts-v1", space, size, captured=self.on_gpu)  # noqa: E731
        image = self._once(key, make, batch)
        half = IMAGES[config["data"]["source"]] // 2
        return image * half * int(config["epochs"]) * self.factors.get(config["method"], 1.0)

    def evaluation(self, cell: Cell, overrides: Mapping[str, Any]) -> float:
        """Seconds of one training of what a search finds."""
        space = get_space(cell.config["space"])
        some = space.derive({name: torch.ones(c.shape) for name, c in space.cells.items()})
        settings = configure_evaluation(**{**overrides, "genotype": str(some)})
        small = LARGE_BATCH if settings.data.source in LARGE else BATCH
        batch = settings.data.batch_size if self.on_gpu else small
        network = settings.network
        size = f"C={network.channels}, N={network.cells}, batch {batch}"
        key = f"training step, {space.name}, {size}"
        key += f", {settings.data.source}" if settings.data.source in LARGE else ""
        image = self._once(key, lambda: training_step(space, settings, batch, self.device), batch)
        return image * IMAGES[settings.data.source] * settings.training.epochs


def method_factors() -> dict[str, float]:
    """Time of each method's epoch over that of first-order DARTS."""
    rows = load()["methods"]["rows"]
    per_epoch = {
        row["name"].split(",")[0]: statistics.fmean(
            run["seconds"] / len(run["trajectory"]["entropy"]) for run in row["runs"]
        )
        for row in rows
        if row["runs"]
    }
    return {name: value / per_epoch["darts-v1"] for name, value in per_epoch.items()}


def main() -> None:
    """Measure, count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = torch.device(parser.parse_args().device)
    factors = method_factors()
    meter = Meter(factors, device)
    studies: dict[str, dict[str, float]] = {}
    for name in STUDIES:
        cells = read_study(name, "full").cells
        searching = sum(meter.search(cell) for cell in cells)
        training = sum(
            meter.evaluation(cell, overrides)
            for cell in cells
            for overrides in cell.evaluations.values()
        )
        studies[name] = {
            "searches": len(cells),
            "search_hours": searching / 3600,
            "trainings": sum(len(cell.evaluations) for cell in cells),
            "training_hours": training / 3600,
        }
    print(f"\n{'':10s}{'searches':>10s}{'hours':>10s}{'trainings':>11s}{'hours':>11s}")
    for name, cost in studies.items():
        print(
            f"{name:10s}{cost['searches']:10.0f}{cost['search_hours']:10.0f}"
            f"{cost['trainings']:11.0f}{cost['training_hours']:11.0f}"
        )
    report = {"studies": studies, "seconds_an_image": meter.known, "factors": factors}
    name = "cost-cuda.json" if meter.on_gpu else "cost.json"
    write_json(RESULTS / name, {**report, "machine": machine(device)})


if __name__ == "__main__":
    main()
