"""Training a found architecture from scratch, as a table of results needs it.

>>> from darts.training.evaluate import configure, evaluate
>>> result = evaluate(configure(genotype="|nor_conv_3x3~0|+...", recipe="short"))
>>> print(result.summary())
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from darts.config import as_dict
from darts.data import Batch, Data, Folders, held_out_batches, load_data, training_batches
from darts.devices import parallel
from darts.devices.capture import CapturedStep, set_learning_rate
from darts.devices.device import check_device
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.networks.network import build_network
from darts.results.run_folder import RunFolder
from darts.training.checkpoint import Checkpoints, Keeper, random_state, set_random_state
from darts.training.divergence import check_finite
from darts.training.evaluation_config import EvaluationConfig, configure, parse

__all__ = ["Evaluation", "Report", "Training", "configure", "cost", "evaluate", "load_config_data"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured; accuracies in percent on the test images after the last epoch."""

    genotype: Genotype
    parameters: int
    """Of the network without the auxiliary head."""
    multiply_adds: int
    """Of one image's forward pass (the field's "FLOPs")."""
    top1: list[float]
    """One value a seed."""
    top5: list[float]
    """One value a seed."""
    folder: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `result.json` in the run folder has it."""
        return {
            "genotype": str(self.genotype),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "top1": self.top1,
            "top5": self.top5,
        }

    def summary(self) -> str:
        """One line for the terminal."""
        return (
            f"top-1 {_spread(self.top1)} %, top-5 {_spread(self.top5)} % on held-out images, "
            f"{self.parameters / 1e6:.2f} M parameters, "
            f"{self.multiply_adds / 1e6:.2f} M multiply-adds"
        )


def _spread(values: list[float]) -> str:
    """Mean ± sample standard deviation."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


Report = Callable[[Mapping[str, Any]], None]
"""Told the record of each epoch: seed, epoch, loss, accuracy, test_top1, test_top5, seconds."""


SMALLEST = 29
"""Side of the images whose maps after two reductions still are 8x8, as the auxiliary head needs."""


class Training:
    """One training of a network, resumable at any step.

    Args:
        config: see `configure`.
        images: the data.
        seed: seeds the weights, the batches and drop path.
        checkpoints: named when the training diverges.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        images: Data,
        seed: int,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        side = min(images.shape[-2:])
        if config.network.auxiliary > 0 and not isinstance(images, Folders) and side < SMALLEST:
            raise UserError(
                f"network.auxiliary={config.network.auxiliary} needs images of at least "
                f"{SMALLEST}x{SMALLEST}, those of {images.name} have {side}; 0 leaves the head out."
            )
        torch.manual_seed(seed)
        self.checkpoints = checkpoints
        self.config, self.images, self.seed = config, images, seed
        self.net = build_network(
            parse(config.genotype),
            channels=config.network.channels,
            cells=config.network.cells,
            classes=images.classes,
            auxiliary=config.network.auxiliary > 0,
            large=isinstance(images, Folders),
        ).to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        t = config.training
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=torch.tensor(t.learning_rate, device=config.device),
            fused=True,
            momentum=t.momentum,
            nesterov=t.nesterov,
            weight_decay=t.weight_decay,
        )
        self.batches = training_batches(
            images,
            batch_size=config.data.batch_size,
            seed=seed,
            device=config.device,
            augment=config.data.augment,
            cutout=config.data.cutout,
            rank=parallel.rank(),
            world=parallel.world(),
        )
        self._outcomes: list[Tensor] = []
        self._seconds = 0.0
        self._started = time.perf_counter()

    @property
    def epoch(self) -> int:
        """The epoch that comes next, or runs, from 0."""
        return self.batches.epoch_index

    def run_epoch(self, keeper: Keeper | None = None) -> dict[str, Any]:
        """Train to the end of the epoch and test; gives its record.

        Raises:
            UserError: the training has diverged.
            Stopped: see `Keeper`.
        """
        self._started = time.perf_counter()
        epoch, steps = self.epoch, self.batches.steps
        self.net.train()
        if self.config.network.drop_path:
            share = epoch / self.config.training.epochs
            self.net.drop_path = self.config.network.drop_path * share  # type: ignore[assignment]
        # A graph of its own for each epoch, whose drop path differs.
        captured = CapturedStep(lambda *parts: [self._step(Batch(*parts))])
        for batch in self.batches.epoch():
            rate = self.learning_rate(epoch + (self.batches.position - 1) / steps)
            set_learning_rate(self.optimizer, rate, self.config.device)
            self._outcomes.append(captured(*batch)[0])
            if keeper:
                keeper.step_done()
        self.check_finite()
        outcomes = torch.stack(self._outcomes).double().cpu()
        loss, correct = outcomes.mean(0).tolist()
        top1, top5 = self.test()
        record = {
            "seed": self.seed,
            "epoch": epoch,
            "learning_rate": rate,
            "loss": loss,
            "accuracy": 100 * correct / self.config.data.batch_size,
            "test_top1": top1,
            "test_top5": top5,
            "seconds": self._seconds + time.perf_counter() - self._started,
        }
        self._outcomes, self._seconds = [], 0.0
        return record

    def check_finite(self) -> None:
        """Stop a training whose losses or weights are no longer numbers."""
        if self._outcomes:
            check_finite(
                torch.stack(self._outcomes)[:, 0],
                self.net.named_parameters(),
                epoch=self.epoch,
                advice="lower training.learning_rate or set training.clip",
                checkpoints=self.checkpoints,
            )

    def learning_rate(self, elapsed: float) -> float:
        """Learning rate after `elapsed` epochs: a linear rise, then the schedule down to 0."""
        t = self.config.training
        if elapsed < t.warmup:
            return t.learning_rate * (elapsed + 1 / self.batches.steps) / t.warmup
        done = (elapsed - t.warmup) / max(t.epochs - t.warmup, 1e-9)
        falls = (1 + math.cos(math.pi * done)) / 2 if t.schedule == "cosine" else 1 - done
        return t.learning_rate * falls

    def _step(self, batch: Batch) -> Tensor:
        """One SGD step; gives [loss, correct predictions] of the whole batch on the device."""
        logits, auxiliary = self._forward(batch.images)
        smoothing = self.config.training.label_smoothing
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        total = loss
        if auxiliary is not None:
            extra = F.cross_entropy(auxiliary, batch.labels, label_smoothing=smoothing)
            total = loss + self.config.network.auxiliary * extra
        parameters = list(self.net.parameters())
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        parallel.average_([g for g in gradients if g is not None])
        if self.config.training.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.training.clip)
        self.optimizer.step()
        correct = (logits.argmax(1) == batch.labels).sum()
        return parallel.total(torch.stack([loss.detach() / parallel.world(), correct.float()]))

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and, while training with the head, auxiliary logits, in float32."""
        half = self.config.network.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            output = self.net(images)
        if isinstance(output, tuple):
            return output[0].float(), output[1].float()
        return output.float(), None

    @torch.no_grad()
    def test(self) -> tuple[float, float]:
        """Top-1 and top-5 accuracy on the test images, in percent."""
        self.net.eval()
        hits, count = torch.zeros(2, device=self.config.device), 0
        guesses = min(5, self.images.classes)
        for batch in held_out_batches(
            self.images,
            batch_size=self.config.data.batch_size // parallel.world(),
            device=self.config.device,
            rank=parallel.rank(),
            world=parallel.world(),
        ):
            best = self._forward(batch.images)[0].topk(guesses).indices == batch.labels[:, None]
            hits += torch.stack([best[:, 0].sum(), best.sum()])
            count += len(best)
        first, within = parallel.total(hits).double().tolist()
        count = int(parallel.total(torch.tensor(count)))
        return 100 * first / count, 100 * within / count

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the training.

        Raises:
            UserError: the training has diverged, so that this is no state to go on from.
        """
        self.check_finite()
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "outcomes": self._outcomes,
            "seconds": self._seconds + time.perf_counter() - self._started,
            "random": random_state(self.config.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self._outcomes = [outcome.to(self.config.device) for outcome in state["outcomes"]]
        self._seconds = state["seconds"]
        set_random_state(state["random"], self.config.device)


def evaluate(
    config: EvaluationConfig,
    *,
    images: Data | None = None,
    report: Report | None = None,
    resume: bool = False,
) -> Evaluation:
    """Train the architecture from scratch once for each seed and test it.

    Args:
        config: see `configure`.
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
    folder = checkpoints = None

    def open_folder() -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        nonlocal folder, checkpoints
        folder = _folder(config, resume)
        if folder is None:
            return None, []
        if not resume:
            folder.write_text("images.json", json.dumps(described(images), indent=1) + "\n")
        checkpoints = Checkpoints(folder.path, as_dict(config))
        state = checkpoints.load() if resume else None
        folder.truncate_log(state["records"] if state else 0)
        return state, folder.records()

    state, history = parallel.from_first(open_folder)
    finished = state["finished"] if state else []
    training = Training(config, images, config.seed + len(finished), checkpoints)
    if state and state["training"] is not None:
        training.load_state_dict(state["training"])

    def collect() -> dict[str, Any]:
        current = training.state_dict() if len(finished) < config.seeds else None
        return {"training": current, "finished": finished, "records": len(history)}

    with Keeper(checkpoints, collect, minutes=config.checkpoint_minutes) as keeper:
        while len(finished) < config.seeds:
            while training.epoch < config.training.epochs:
                record = training.run_epoch(keeper)
                history.append(record)
                if folder:
                    folder.append(record)
                if report and parallel.rank() == 0:
                    report(record)
                keeper.save()
            if folder:
                folder.write_weights(training.net.state_dict(), f"weights-{training.seed}.pt")
            finished.append([history[-1]["test_top1"], history[-1]["test_top5"]])
            if len(finished) < config.seeds:
                training = Training(config, images, config.seed + len(finished), checkpoints)
            keeper.save()
    parameters, multiply_adds = cost(config, images)
    evaluation = Evaluation(
        parse(config.genotype),
        parameters,
        multiply_adds,
        [top1 for top1, _ in finished],
        [top5 for _, top5 in finished],
        folder.path if folder else None,
    )
    if folder:
        folder.write_text("result.json", json.dumps(evaluation.as_dict(), indent=1) + "\n")
    return evaluation


def described(images: Data) -> dict[str, Any]:
    """What a trained network must know of its images: plain values, for `images.json`."""
    mean, deviation = images.normalization()
    return {
        "name": images.name,
        "classes": images.classes,
        "shape": list(images.shape),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "large": isinstance(images, Folders),
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


def _folder(config: EvaluationConfig, resume: bool) -> RunFolder | None:
    if not config.out:
        if resume:
            raise UserError("resume needs out, the folder of the run to go on with.")
        return None
    return RunFolder.open(config.out) if resume else RunFolder.create(config.out, as_dict(config))


def cost(config: EvaluationConfig, images: Data) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image's forward pass, without the auxiliary head."""
    with torch.device("meta"):
        net = build_network(
            parse(config.genotype),
            channels=config.network.channels,
            cells=config.network.cells,
            classes=images.classes,
            large=isinstance(images, Folders),
        ).eval()
        image = torch.empty(1, *images.shape)
        counter = FlopCounterMode(display=False)
        with counter:
            net(image)
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2
