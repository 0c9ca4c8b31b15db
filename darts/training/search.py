"""The bilevel search loop (Eq. 1): alternate steps of ω and α, decisions between epochs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from darts.benchmark.nb201 import Row, Table
from darts.budgets.budget import Budget
from darts.config import BudgetConfig, SearchConfig
from darts.data import (
    Batch,
    ImageSet,
    SearchBatches,
    load,
)
from darts.data.targets import criterion
from darts.devices import parallel
from darts.devices.capture import CapturedStep, set_learning_rate
from darts.devices.device import check_device
from darts.errors import UserError
from darts.methods import Step, Weights, get_method
from darts.networks.genotype import Genotype
from darts.plugins import attribute
from darts.results.found import save_run
from darts.results.run_folder import EpochRecord, RunFolder
from darts.spaces import get_space
from darts.supernet import build_supernet
from darts.supernet.step import Outcome, weight_step
from darts.supernet.widen import growth, widen
from darts.training.checkpoint import random_state, set_random_state
from darts.training.divergence import check_finite
from darts.training.epoch_record import epoch_record
from darts.training.evaluation_config import bounded_sizes
from darts.training.held_out import BatchLoss, HeldOut, summary
from darts.training.loop import Loop, StepDone, not_kept, sgd


@dataclass(frozen=True)
class Result:
    """What a search found."""

    config: SearchConfig
    genotype: Genotype
    history: list[dict[str, Any]]
    """One record per epoch, as in log.jsonl."""
    folder: Path | None = None
    """The run folder, if there is one."""
    row: Row | None = None
    """The architecture's row in the NAS-Bench-201 table, if one was given."""


class Callback:
    """Told about the progress of a search; every method may be left out.

    In a data-parallel run the first process's are told.
    """

    def started(self, search: Search) -> None:
        """Before the first epoch."""

    def stepped(self, search: Search, step: int, steps: int) -> None:
        """After step `step` of `steps` of an epoch (from 1); must not read device values."""

    def epoch_ended(self, search: Search, record: dict[str, Any]) -> None:
        """After each epoch, with its record."""

    def ended(self, search: Search, result: Result) -> None:
        """After the selection."""


class Search:
    """One search: supernet, method, optimiser and data, and the loop over them.

    Args:
        config: see `configure`.
        images: an image set to use instead of `config.data.source`.
        callbacks: told about the progress.
        resume: continue the run in the folder `config.out` from its newest checkpoint.

    The same configuration gives the same bits on a CPU with the same number of threads,
    interrupted and resumed or not (a resumed run takes the number it began with); on CUDA the
    order in which some kernels add may differ. The global random generator is seeded. Under
    `torchrun` the processes share the search out; see `darts.parallel`.
    """

    def __init__(
        self,
        config: SearchConfig,
        *,
        images: ImageSet | None = None,
        callbacks: Sequence[Callback] = (),
        resume: bool = False,
    ) -> None:
        check_device(config.device)
        parallel.join(config.device)
        self.config = config
        self.callbacks = list(callbacks) if parallel.rank() == 0 else []
        self.precision = torch.bfloat16 if config.supernet.precision == "bfloat16" else None
        self.space = get_space(config.space)
        self.table = Table.load(config.nb201) if config.nb201 else None
        data = config.data
        if images is not None and not isinstance(images, ImageSet):
            raise UserError(
                f"images must be an ImageSet, not {type(images).__name__}; "
                "darts.data.from_datasets makes one of two datasets."
            )
        self.images = images or parallel.first_then_others(
            lambda: load(data.source, root=data.root, download=data.download, side=data.side)
        )
        labels = self.images.train_labels.to(config.device)
        self.criterion = criterion(data, labels, self.images.classes)
        self.held_out = HeldOut(self.images, config)
        torch.manual_seed(config.seed)
        self.method = get_method(config.method)(self.space, config)
        self.budget = self._budget()
        self.method.pull = self.budget.pull if self.budget else None
        self.batches = SearchBatches(
            self.images,
            batch_size=data.batch_size,
            seed=config.seed,
            device=config.device,
            split=data.split or None,
            stratified=data.stratified,
            single_level=self.method.single_level,
            augment=data.augment,
            cutout=data.cutout,
            keep_last=data.keep_last,
            replacement=data.replacement,
            rank=parallel.rank(),
            world=parallel.world(),
        )
        self._build()
        self.epoch = 0
        self.losses: list[Tensor] = []
        """What the steps of the running epoch gave, on the device."""
        self.seconds = 0.0
        """Time that the running epoch took before it was interrupted."""
        self.loop = Loop(config, self, resume=resume)

    def _budget(self) -> Budget | None:
        """The bounds on the network that `evaluate` trains, where any is asked for."""
        config, space = self.config.budget, self.space
        if config == BudgetConfig():
            return None
        sizes = bounded_sizes(space, config, self.images.classes, self.images.shape)
        return Budget(space, config, sizes, self.config.device)

    def _build(self) -> None:
        """The supernet as the method wants it now, and its optimiser."""
        self._captured: tuple[Hashable, CapturedStep] | None = None
        self._built_with = self.method.supernet_options()
        try:
            net = build_supernet(
                self.space,
                channels=self.config.supernet.channels,
                cells=self.config.supernet.cells,
                classes=self.images.classes,
                colours=self.images.shape[0],
                **self._built_with,
            )
        except ValueError as error:
            raise UserError(f"supernet: {error}.") from error
        net.criterion = self.criterion
        if adapt := self.config.supernet.adapt:
            attribute(adapt, "supernet.adapt")(net)
        on_gpu = torch.device(self.config.device).type == "cuda"
        self.net = net.to(self.config.device)
        self.net.own_convolutions = self.config.supernet.own_convolutions and on_gpu
        self.optimizer = sgd(self.net.parameters(), self.config.weights, self.config.device)

    def _rebuild(self) -> None:
        """Another supernet in the middle of a search; weights and momentum are carried over."""
        old, momenta = self.net, self.optimizer.state
        self._build()

        def momentum(states: Any) -> Any:
            return lambda p: states[p].setdefault("momentum_buffer", torch.zeros_like(p))

        source = torch.Generator().manual_seed(self.config.seed + self.epoch)
        plan = growth(old.conventional_views(), self.net.conventional_views(), source)
        widen(old.conventional_views(), self.net.conventional_views(), plan)
        parts = (old.conventional_views(momentum(momenta)), momentum(self.optimizer.state))
        widen(parts[0], self.net.conventional_views(parts[1]), plan)

    def run(self) -> Result:
        """Train, select, write the run folder.

        Raises:
            Stopped: SIGTERM or SIGINT came; the state has been saved if there is a run folder.
        """
        for callback in self.callbacks:
            callback.started(self)
        self.loop.run(self._tell)
        genotype = self.method.select(self)
        if self.budget:
            genotype = self.budget.choose(genotype, self.method.scores(), self.method.logits)
        row = self.table[str(genotype)] if self.table else None
        folder = self.loop.folder
        path = folder.path if folder else None
        result = Result(self.config, genotype, self.loop.history, path, row)
        if folder:
            self.write(folder, genotype)
        for callback in self.callbacks:
            callback.ended(self, result)
        return result

    def _tell(self, record: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.epoch_ended(self, record)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        return self.epoch >= self.method.epochs or self.method.finished

    def write(self, folder: RunFolder, genotype: Genotype) -> None:
        """Put what was found into the run folder."""
        folder.write_genotype(str(genotype))
        folder.write_weights(self.net.state_dict())
        title = f"{self.method.summary} on {self.space.name}, {self.images.name}"
        records = cast("list[EpochRecord]", self.loop.history)
        if records:
            save_run(folder.path / "search.png", records, genotype, title=title)

    def run_epoch(self, step_done: StepDone = not_kept) -> dict[str, Any]:
        """One epoch of steps and the method's decisions; gives its record."""
        start, worked = time.perf_counter() - self.seconds, time.process_time()
        steps, done = self.batches.steps, self.batches.position
        if not done:
            self.method.begin_epoch(self.epoch)
            if self.method.supernet_options() != self._built_with:
                self._rebuild()
        self.method.prepare(self.net)
        self.net.train()
        run_step = self.captured_step() if self.method.captured else self.step
        rate = self.method.learning_rate(self.epoch)
        set_learning_rate(self.optimizer, rate, self.config.device)
        for step, (weight_batch, arch_batch) in enumerate(self.batches.epoch(), start=done + 1):
            self.losses.append(run_step(weight_batch, arch_batch))
            for callback in self.callbacks:
                callback.stepped(self, step, steps)
            self.seconds = time.perf_counter() - start
            step_done()
        # The device is read here for all steps, by `end_epoch` where a method decides on something,
        # and twice for the record.
        losses = self.check_finite()
        self.method.end_epoch(self)
        if self.budget and self.method.alpha_moves:
            self.budget.adapt(self.space.derive(self.method.scores()))
        record = self.record(losses)
        record["seconds"] = time.perf_counter() - start
        record["cpu_seconds"] = time.process_time() - worked
        self.epoch += 1
        self.losses, self.seconds = [], 0.0
        return record

    def captured_step(self) -> Callable[[Batch, Batch], Tensor]:
        """`step` as a CUDA graph, the one recorded before where it still is right."""
        wanted = self.method.recorded_for()
        if self._captured is None or self._captured[0] != wanted:
            captured = CapturedStep(
                lambda *parts: [self.step(Batch(*parts[:2]), Batch(*parts[2:]))],
                self.method.generator,
            )
            self._captured = wanted, captured
        captured = self._captured[1]
        return lambda weight_batch, arch_batch: captured(*weight_batch, *arch_batch)[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the search goes on.

        Raises:
            Diverged: the search has diverged, so that this is no state to go on from.
        """
        if self.losses:
            self.check_finite()
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "losses": self.losses,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "budget": self.budget.state_dict() if self.budget else None,
            "batches": self.batches.state_dict(),
            "random": random_state(self.config.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict()` was taken."""
        self._captured = None  # an optimiser's state is new tensors now
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.losses = [loss.to(self.config.device) for loss in state["losses"]]
        self.method.load_state_dict(state["method"])
        if self.budget:
            self.budget.load_state_dict(state["budget"])
        if self.method.supernet_options() != self._built_with:
            self._build()
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        set_random_state(state["random"], self.config.device)

    def step(self, weight_batch: Batch, arch_batch: Batch) -> Tensor:
        """One weight step and one arch step; gives [weight loss, score, arch loss, score]."""
        skips = self.config.supernet.zero_skip and not self.method.captured
        weight_loss = BatchLoss(self.net, weight_batch, self.precision, skips)
        arch_loss = BatchLoss(self.net, arch_batch, self.precision, skips)
        step = Step(self.net, weight_batch, arch_batch, weight_loss, arch_loss, self.optimizer)
        if self.method.alpha_moves and self.config.arch.first:
            self.method.arch_step(step)
        outcome = self.weight_step(step)
        if self.method.alpha_moves and not self.config.arch.first:
            self.method.arch_step(step)
        return torch.cat([summary(outcome, weight_batch), summary(arch_loss.outcome, arch_batch)])

    def weight_step(self, step: Step) -> Outcome:
        """SGD on ω with the method's β; operations whose β is lost in rounding are left out."""
        alphas = self.method.clipped_with_weights()
        outcome = weight_step(
            self.net,
            step.weight_batch,
            self.method.training_weights(step),
            alphas=alphas,
            zero_skip=self.config.supernet.zero_skip,
            precision=self.precision,
        )
        self.method.weight_gradients(step)
        if clip := self.config.weights.clip:
            torch.nn.utils.clip_grad_norm_([*self.net.parameters(), *alphas], clip)
        self.method.weight_update(step)
        return outcome

    def allows(self, genotype: Genotype) -> bool:
        """See `darts.methods.base.Trainer`."""
        return self.budget is None or self.budget.allows(genotype)

    def validation_loss(self, weights: Weights) -> Tensor:
        """Loss of the supernet on the first batch of the arch half, unaugmented."""
        return self.held_out.loss(self.net, weights)

    def evaluate(
        self, weights: Weights, *, images: int | None = None, running_statistics: bool = False
    ) -> tuple[float, float]:
        """See `darts.methods.base.Trainer`."""
        return self.held_out.evaluate(self.net, weights, images, running_statistics)

    def record(self, losses: Tensor) -> dict[str, Any]:
        """What the log says of the epoch; `losses` [steps, 4] as from `step`, on the CPU."""
        return epoch_record(
            self.epoch,
            self.method,
            losses,
            self.batches.drawn / self.batches.steps,
            measured=functools.partial(self.held_out.measured, self.net),
            budget=self.budget,
            table=self.table,
        )

    def check_finite(self) -> Tensor:
        """The running epoch's losses, on the CPU; stops where they, α or ω are no longer numbers.

        Raises:
            Diverged: they are not.
        """
        alpha = [(f"parameter {i} of α", p) for i, p in enumerate(self.method.parameters())]
        return check_finite(
            torch.stack(self.losses),
            [*alpha, *self.net.named_parameters()],
            epoch=self.epoch,
            advice="lower weights.learning_rate or set weights.clip",
        )


def search(
    config: SearchConfig,
    *,
    images: ImageSet | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> Result:
    """Run one search; see `Search` for the arguments.

    Examples:
        >>> result = search(configure(method="edd", epochs=20))
        >>> print(result.genotype)
    """
    return Search(config, images=images, callbacks=callbacks, resume=resume).run()
