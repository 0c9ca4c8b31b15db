"""Training a found architecture from scratch, as a table of results needs it.

>>> from darts import configure_evaluation, evaluate
>>> result = evaluate(configure_evaluation(genotype="|nor_conv_3x3~0|+...", recipe="short"))
>>> print(result.summary())
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from darts.data import Data, Folders, load_data
from darts.data.targets import MEASURES
from darts.devices import parallel
from darts.devices.device import check_device
from darts.networks.genotype import Genotype
from darts.networks.network import build_network
from darts.networks.size import multiply_adds, parameters
from darts.plugins import attribute
from darts.results.run_folder import RunFolder
from darts.training.evaluation_config import EvaluationConfig, parse
from darts.training.loop import Loop, StepDone, not_kept
from darts.training.scratch import Training


@dataclass(frozen=True)
class Evaluation:
    """What was measured; in percent (but for `rmse`) on the test images after the last epoch."""

    genotype: Genotype
    parameters: int
    """Of the network without the auxiliary head."""
    multiply_adds: int
    """Of one image's forward pass (the field's "FLOPs")."""
    measures: dict[str, list[float]]
    """By two of the names of `darts.data.targets.MEASURES`, one value a seed."""
    folder: Path | None = None

    @property
    def top1(self) -> list[float]:
        """Top-1 accuracy of networks for classes, one value a seed."""
        return self.measures["top1"]

    @property
    def top5(self) -> list[float]:
        """Top-5 accuracy of networks for classes, one value a seed."""
        return self.measures["top5"]

    def as_dict(self) -> dict[str, Any]:
        """As `result.json` in the run folder has it."""
        return {
            "genotype": str(self.genotype),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            **self.measures,
        }

    def summary(self) -> str:
        """One line for the terminal."""
        measured = (
            f"{MEASURES[name]} {_spread(values)}{'' if name == 'rmse' else ' %'}"
            for name, values in self.measures.items()
        )
        return (
            f"{', '.join(measured)} on held-out images, "
            f"{self.parameters / 1e6:.2f} M parameters, "
            f"{self.multiply_adds / 1e6:.2f} M multiply-adds"
        )


def _spread(values: list[float]) -> str:
    """Mean ± sample standard deviation."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


Report = Callable[[Mapping[str, Any]], None]
"""Told the record of each epoch: seed, epoch, loss, accuracy, test_top1, test_top5 (or
what suits the labels), seconds."""


def evaluate(
    config: EvaluationConfig,
    *,
    images: Data | None = None,
    report: Report | None = None,
    resume: bool = False,
) -> Evaluation:
    """Train the architecture from scratch once for each seed and test it.

    Args:
        config: see `configure_evaluation`.
        images: an image set to use instead of `config.data.source`.
        report: told the record of each epoch.
        resume: go on from the newest checkpoint in `config.out`.

    Under `torchrun` the processes share the training out, see `darts.parallel`; the first of them
    alone writes and reports.

    Raises:
        UserError: data, genotype or run folder are not usable, or the training diverges.
        Stopped: a signal asked for a stop; with a run folder, the state is saved.
    """
    check_device(config.device)
    parallel.join(config.device)
    images = images or parallel.first_then_others(lambda: load_config_data(config))
    files = {"images.json": json.dumps(described(images), indent=1) + "\n"}
    trainings = _Trainings(config, images)
    loop = Loop(config, trainings, resume=resume, files=files)
    trainings.folder = loop.folder
    loop.run(report if report and parallel.rank() == 0 else lambda record: None)
    parameters, multiply_adds = cost(config, images)
    evaluation = Evaluation(
        parse(config.genotype),
        parameters,
        multiply_adds,
        {name: [result[name] for result in trainings.results] for name in trainings.results[0]},
        loop.folder.path if loop.folder else None,
    )
    if loop.folder:
        text = json.dumps(evaluation.as_dict(), indent=1) + "\n"
        loop.folder.write_text("result.json", text)
    return evaluation


class _Trainings:
    """One training a seed, one after the other, as work for a `Loop`."""

    def __init__(self, config: EvaluationConfig, images: Data) -> None:
        self.config, self.images = config, images
        self.folder: RunFolder | None = None
        self.results: list[dict[str, float]] = []
        """What `Training.test` measured of every seed that is done."""
        self.training = self._next()

    def _next(self) -> Training:
        return Training(self.config, self.images, self.config.seed + len(self.results))

    @property
    def finished(self) -> bool:
        return len(self.results) == self.config.seeds

    def run_epoch(self, step_done: StepDone = not_kept) -> dict[str, Any]:
        record = self.training.run_epoch(step_done)
        if self.training.finished:
            if self.folder:
                name = f"weights-{self.training.seed}.pt"
                self.folder.write_weights(self.training.net.state_dict(), name)
            measured = {name: record.get(f"test_{name}") for name in MEASURES}
            self.results.append({k: v for k, v in measured.items() if v is not None})
            if not self.finished:
                self.training = self._next()
        return record

    def state_dict(self) -> dict[str, Any]:
        return {
            "results": self.results,
            "training": None if self.finished else self.training.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.results = state["results"]
        if not self.finished:
            self.training = self._next()
            self.training.load_state_dict(state["training"])


def described(images: Data) -> dict[str, Any]:
    """What a trained network must know of its images: plain values, for `images.json`."""
    mean, deviation = images.normalization()
    unit = images.unit()
    return {
        "name": images.name,
        "classes": images.classes,
        "shape": list(images.shape),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "large": isinstance(images, Folders),
        "unit": unit and [part.tolist() for part in unit],
    }


def load_config_data(config: EvaluationConfig) -> Data:
    """The data that a configuration names.

    Raises:
        UserError: see `darts.data.load_data`.
    """
    data = config.data
    return load_data(
        data.source,
        root=data.root,
        download=data.download,
        workers=config.workers,
        side=data.side,
    )


def cost(config: EvaluationConfig, images: Data) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image's forward pass, without the auxiliary head."""
    with torch.device("meta"):
        net = build_network(
            parse(config.genotype),
            channels=config.network.channels,
            cells=config.network.cells,
            classes=images.classes,
            large=isinstance(images, Folders),
            colours=images.shape[0],
        )
        if config.network.adapt:
            attribute(config.network.adapt, "network.adapt")(net)
        image = torch.empty(1, *images.shape)
        return int(parameters(net, image)), int(multiply_adds(net, image))
