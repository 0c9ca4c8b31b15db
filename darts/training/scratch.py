"""Training of one network from scratch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from darts.data import Batch, Data, Folders, held_out_batches, training_batches
from darts.data.targets import criterion, measures, score, sums
from darts.devices import parallel
from darts.devices.capture import CapturedStep, set_learning_rate
from darts.errors import UserError
from darts.networks.network import build_network
from darts.plugins import attribute
from darts.training.checkpoint import random_state, set_random_state
from darts.training.divergence import check_finite
from darts.training.evaluation_config import EvaluationConfig, parse
from darts.training.loop import StepDone, not_kept, sgd

SMALLEST = 29
"""Side of the images whose maps after two reductions still are 8x8, as the auxiliary head needs."""


class Training:
    """One training of a network, resumable at any step.

    Args:
        config: see `configure_evaluation`.
        images: the data.
        seed: seeds the weights, the batches and drop path.
    """

    def __init__(self, config: EvaluationConfig, images: Data, seed: int) -> None:
        side = min(images.shape[-2:])
        if config.network.auxiliary > 0 and not isinstance(images, Folders) and side < SMALLEST:
            raise UserError(
                f"network.auxiliary={config.network.auxiliary} needs images of at least "
                f"{SMALLEST}x{SMALLEST}, those of {images.name} have {side}; 0 leaves the head out."
            )
        torch.manual_seed(seed)
        self.config, self.images, self.seed = config, images, seed
        self.net = build_network(
            parse(config.genotype),
            channels=config.network.channels,
            cells=config.network.cells,
            classes=images.classes,
            auxiliary=config.network.auxiliary > 0,
            large=isinstance(images, Folders),
            colours=images.shape[0],
        )
        self.criterion = criterion(
            config.data,
            images.train_labels.to(config.device),
            images.classes,
            config.training.label_smoothing,
        )
        if config.network.adapt:
            attribute(config.network.adapt, "network.adapt")(self.net)
        self.net.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = sgd(self.net.parameters(), config.training, config.device)
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
        self._captured = self._graph()
        self._outcomes: list[Tensor] = []
        self._seconds = 0.0
        self._started = time.perf_counter()

    def _graph(self) -> CapturedStep:
        return CapturedStep(lambda *parts: [self._step(Batch(*parts))])

    @property
    def epoch(self) -> int:
        """The epoch that comes next, or runs, from 0."""
        return self.batches.epoch_index

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        return self.epoch >= self.config.training.epochs

    def run_epoch(self, step_done: StepDone = not_kept) -> dict[str, Any]:
        """Train to the end of the epoch and test; gives its record.

        Raises:
            Diverged: numbers are none any more.
        """
        self._started = time.perf_counter()
        epoch, steps = self.epoch, self.batches.steps
        self.net.train()
        if self.config.network.drop_path:
            share = epoch / self.config.training.epochs
            self.net.drop_path = self.config.network.drop_path * share  # type: ignore[assignment]
            self._captured = self._graph()  # which has the probability as a number
        for batch in self.batches.epoch():
            rate = self.learning_rate(epoch + (self.batches.position - 1) / steps)
            set_learning_rate(self.optimizer, rate, self.config.device)
            self._outcomes.append(self._captured(*batch)[0])
            step_done()
        loss, correct = self.check_finite().double().mean(0).tolist()
        record = {
            "seed": self.seed,
            "epoch": epoch,
            "learning_rate": rate,
            "loss": loss,
            "accuracy": 100 * correct / self.config.data.batch_size,
            **{f"test_{name}": value for name, value in self.test().items()},
            "seconds": self._seconds + time.perf_counter() - self._started,
        }
        self._outcomes, self._seconds = [], 0.0
        return record

    def check_finite(self) -> Tensor:
        """The running epoch's outcomes, on the CPU; stops where they or ω are no longer numbers."""
        return check_finite(
            torch.stack(self._outcomes),
            self.net.named_parameters(),
            epoch=self.epoch,
            advice="lower training.learning_rate or set training.clip",
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
        """One SGD step; gives [loss, `score`] of the whole batch on the device."""
        logits, auxiliary = self._forward(batch.images)
        criterion = getattr(self.net, "criterion", self.criterion)
        loss = criterion(logits, batch.labels)
        total = loss
        if auxiliary is not None:
            extra = criterion(auxiliary, batch.labels)
            total = loss + self.config.network.auxiliary * extra
        parameters = list(self.net.parameters())
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        parallel.average_([g for g in gradients if g is not None])
        if self.config.training.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.training.clip)
        self.optimizer.step()
        right = score(logits.detach(), batch.labels).float()
        return parallel.total(torch.stack([loss.detach() / parallel.world(), right]))

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and, while training with the head, auxiliary logits, in float32."""
        half = self.config.network.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            output = self.net(images)
        if isinstance(output, tuple):
            return output[0].float(), output[1].float()
        return output.float(), None

    @torch.no_grad()
    def test(self) -> dict[str, float]:
        """The two measures of `darts.data.targets.MEASURES` that suit the labels, on test images.

        Top-1 and top-5 accuracy, exact matches and F1, or R², in percent; RMSE in the labels'
        units.
        """
        self.net.eval()
        found = []
        for batch in held_out_batches(
            self.images,
            batch_size=self.config.data.batch_size // parallel.world(),
            device=self.config.device,
            rank=parallel.rank(),
            world=parallel.world(),
        ):
            found.append(sums(self._forward(batch.images)[0], batch.labels))
        # A process without a batch of its own adds nothing.
        labels = self.images.train_labels[:1].to(self.config.device)
        nothing = torch.zeros_like(sums(labels.new_zeros(1, self.images.classes).float(), labels))
        total = parallel.total(torch.stack([nothing, *found]).sum(0)).cpu()
        unit = self.images.unit()
        return measures(total, labels.dtype, unit and unit[1])

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the training.

        Raises:
            Diverged: the training has diverged, so that this is no state to go on from.
        """
        if self._outcomes:
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
        self._captured = self._graph()  # the optimiser's state is new tensors now
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self._outcomes = [outcome.to(self.config.device) for outcome in state["outcomes"]]
        self._seconds = state["seconds"]
        set_random_state(state["random"], self.config.device)
