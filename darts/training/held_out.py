"""The supernet's loss: on one batch as a function of β, and on the half held out for α."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from darts.config import SearchConfig
from darts.data import Batch, ImageSet, Unaugmented, search_split
from darts.data.targets import score
from darts.devices import parallel
from darts.devices.capture import CapturedStep, captures
from darts.methods import Weights
from darts.supernet import Supernet, live_operations
from darts.supernet.step import Outcome, cross_entropy

LARGE = 2048
"""Images a batch on a GPU where running statistics normalise, so that the batch is no matter."""


class BatchLoss:
    """Loss of the supernet on one batch as a function of β.

    `outcome` holds that of the first evaluation, or the last one by `measure`, on the device.
    `skips`: whether it may read β, to leave out what is 0, which a step that is recorded cannot.
    """

    def __init__(
        self, net: Supernet, batch: Batch, precision: torch.dtype | None, skips: bool = True
    ) -> None:
        self.net, self.batch, self.precision, self.skips = net, batch, precision, skips
        self.outcome: Outcome | None = None

    def __call__(self, weights: Weights, *, skip: bool = False) -> Tensor:
        """The loss; differentiable in β and ω."""
        live = live_operations(weights) if skip and self.skips else None
        loss, logits = cross_entropy(self.net, self.batch, weights, live, self.precision)
        if self.outcome is None:
            self.outcome = Outcome(loss.detach(), logits.detach())
        return loss

    @torch.no_grad()
    def measure(self, weights: Weights) -> Outcome:
        """See `darts.methods.base.Loss`."""
        self.outcome = None
        self(weights, skip=True)
        assert self.outcome is not None
        return self.outcome


def summary(outcome: Outcome | None, batch: Batch) -> Tensor:
    """[loss, `score`] of the whole batch on the device; NaN where there are none."""
    if outcome is None:
        return torch.full((2,), torch.nan, device=batch.labels.device)
    right = score(outcome.logits, batch.labels)
    return torch.stack([outcome.loss.float(), parallel.total(right).float()])


class HeldOut:
    """The half of the training images that α learns from, unaugmented.

    On a GPU what is measured on a batch is recorded once as a graph, whatever β is.

    Args:
        images: all images.
        config: names the split, the batch size and the device.
    """

    def __init__(self, images: ImageSet, config: SearchConfig) -> None:
        half = search_split(images, config.data.split or None, stratified=config.data.stratified)[1]
        pixels, labels = images.train_images[half], images.train_labels[half]
        self.images = Unaugmented(images, pixels, labels, config.device)
        self.size, self.device, self.seed = config.data.batch_size, config.device, config.seed
        self.precision = torch.bfloat16 if config.supernet.precision == "bfloat16" else None
        self._recorded: tuple[Supernet | None, dict[bool, CapturedStep]] = None, {}

    def loss(self, net: Supernet, weights: Weights) -> Tensor:
        """Loss on the first batch."""
        batch = Batch(*(parallel.own(part) for part in next(self.images.batches(self.size))))
        return BatchLoss(net, batch, self.precision)(weights)

    def _batch_size(self, running_statistics: bool) -> int:
        """The search's own where statistics of the batch normalise: they are other with another."""
        large = running_statistics and torch.device(self.device).type == "cuda"
        return max(self.size, LARGE) if large else self.size

    def _of_batch(self, net: Supernet, weights: Weights) -> Callable[..., list[Tensor]]:
        """Images, labels and β of every cell → [loss x images, `score`, images]."""
        cells = list(weights)
        recorded = captures(torch.device(self.device))

        def measure(images: Tensor, labels: Tensor, *betas: Tensor) -> list[Tensor]:
            given = dict(zip(cells, betas, strict=True))
            # Which β are 0 cannot be read in a recorded step; the result is the same.
            live = None if recorded else live_operations(given)
            batch = Batch(images, labels)
            outcome = Outcome(*cross_entropy(net, batch, given, live, self.precision))
            loss, correct = summary(outcome, batch)
            seen = torch.full_like(loss, len(labels))
            return [torch.stack([loss * seen, correct, seen])]

        if not recorded:
            return measure
        if self._recorded[0] is not net:
            self._recorded = net, {}
        return self._recorded[1].setdefault(net.training, CapturedStep(measure))

    def evaluate(
        self,
        net: Supernet,
        weights: Weights,
        images: int | None = None,
        running_statistics: bool = False,
    ) -> tuple[float, float]:
        """See `darts.methods.base.Trainer.evaluate`."""
        loss, share = self.measured(net, weights, images, running_statistics).tolist()
        return loss, 100 * share

    @torch.no_grad()
    def measured(
        self,
        net: Supernet,
        weights: Weights,
        images: int | None = None,
        running_statistics: bool = False,
    ) -> Tensor:
        """The same as [mean loss, share of right answers] on the device, which is not waited for.

        Each process takes whole batches, which is why batch statistics need not be shared. Nothing
        is drawn from the global random generators; operations that draw do so by the batch.
        """
        rank, world = parallel.rank(), parallel.world()
        kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
        drop_path, net.drop_path = net.drop_path, 0.0
        training = net.training
        net.train(not running_statistics)
        measure = self._of_batch(net, weights)
        sums = torch.zeros(3, device=self.device)
        size = self._batch_size(running_statistics)
        batches = self.images.batches(size, rank=rank, world=world)
        gpus = [self.device] if torch.device(self.device).type == "cuda" else []
        with parallel.alone(), torch.random.fork_rng(gpus):
            for number, batch in zip(count(rank, world), batches, strict=False):
                if images is not None and number * size >= images:
                    break
                torch.manual_seed(self.seed + number)
                sums += measure(*batch, *weights.values())[0]
        for name, buffer in net.named_buffers():
            buffer.copy_(kept[name])
        net.drop_path = drop_path
        net.train(training)
        loss, correct, seen = parallel.total(sums)
        return torch.stack([loss, correct]).div(seen)
