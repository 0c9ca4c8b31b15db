"""The supernet's loss: on one batch as a function of β, and on the half held out for α."""

from __future__ import annotations

import dataclasses
from itertools import count

import torch
from torch import Tensor

from darts.config import SearchConfig
from darts.data import Batch, ImageSet, evaluation_batches, search_split
from darts.devices import parallel
from darts.methods import Weights
from darts.supernet import Supernet, live_operations
from darts.supernet.step import Outcome, cross_entropy


class BatchLoss:
    """Cross-entropy of the supernet on one batch as a function of β.

    `outcome` holds that of the first evaluation, on the device.
    """

    def __init__(self, net: Supernet, batch: Batch, precision: torch.dtype | None) -> None:
        self.net, self.batch, self.precision = net, batch, precision
        self.outcome: Outcome | None = None

    def __call__(self, weights: Weights, *, skip: bool = False) -> Tensor:
        """The loss; differentiable in β and ω."""
        live = live_operations(weights) if skip else None
        loss, logits = cross_entropy(self.net, self.batch, weights, live, self.precision)
        if self.outcome is None:
            self.outcome = Outcome(loss.detach(), logits.detach())
        return loss


def summary(outcome: Outcome | None, batch: Batch) -> Tensor:
    """[loss, correct predictions] of the whole batch on the device; NaN where there are none."""
    if outcome is None:
        return torch.full((2,), torch.nan, device=batch.labels.device)
    correct = (outcome.logits.argmax(1) == batch.labels).sum()
    return torch.stack([outcome.loss.float(), parallel.total(correct).float()])


class HeldOut:
    """The half of the training images that α learns from, unaugmented.

    Args:
        images: all images.
        config: names the split, the batch size and the device.
    """

    def __init__(self, images: ImageSet, config: SearchConfig) -> None:
        half = search_split(images, config.data.split or None)[1]
        self.images = dataclasses.replace(
            images, test_images=images.train_images[half], test_labels=images.train_labels[half]
        )
        self.size, self.device, self.seed = config.data.batch_size, config.device, config.seed
        self.precision = torch.bfloat16 if config.supernet.precision == "bfloat16" else None

    def loss(self, net: Supernet, weights: Weights) -> Tensor:
        """Loss on the first batch."""
        batches = evaluation_batches(self.images, batch_size=self.size, device=self.device)
        batch = Batch(*(parallel.own(part) for part in next(batches)))
        return BatchLoss(net, batch, self.precision)(weights)

    @torch.no_grad()
    def evaluate(
        self,
        net: Supernet,
        weights: Weights,
        images: int | None = None,
        running_statistics: bool = False,
    ) -> tuple[float, float]:
        """See `darts.methods.base.Trainer.evaluate`.

        Each process takes whole batches, which is why batch statistics need not be shared. Nothing
        is drawn from the global random generators; operations that draw do so by the batch.
        """
        rank, world = parallel.rank(), parallel.world()
        kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
        drop_path, net.drop_path = net.drop_path, 0.0
        training = net.training
        net.train(not running_statistics)
        live = live_operations(weights)
        sums = torch.zeros(3, device=self.device)
        batches = evaluation_batches(
            self.images, batch_size=self.size, device=self.device, rank=rank, world=world
        )
        gpus = [self.device] if torch.device(self.device).type == "cuda" else []
        with parallel.alone(), torch.random.fork_rng(gpus):
            for number, batch in zip(count(rank, world), batches, strict=False):
                if images is not None and number * self.size >= images:
                    break
                torch.manual_seed(self.seed + number)
                outcome = Outcome(*cross_entropy(net, batch, weights, live, self.precision))
                loss, correct = summary(outcome, batch)
                seen = torch.full_like(loss, len(batch.labels))
                sums += torch.stack([loss * seen, correct, seen])
        for name, buffer in net.named_buffers():
            buffer.copy_(kept[name])
        net.drop_path = drop_path
        net.train(training)
        loss, correct, seen = parallel.total(sums)
        mean, share = torch.stack([loss, correct]).div(seen).tolist()
        return mean, 100 * share
