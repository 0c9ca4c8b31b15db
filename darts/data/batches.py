"""Augmented batches assembled on the device without a DataLoader.

The images stay on the device as bytes, zero-padded once and stored channels last. A batch is one
gather (crop and flip are in its indices) and one multiply-add that normalises. All random draws of
an epoch are made at its start on the CPU, so they are the same on every device and a position
inside an epoch is restored exactly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darts.data.images import ImageSet
from darts.data.split import search_split
from darts.errors import UserError


class Batch(NamedTuple):
    """Normalised images, float32 [B, C, H, W] in channels_last memory, and labels as networks
    learn them (`ImageSet.targets`): int64 [B], bool [B, K] or float32 [B, K]."""

    images: Tensor
    labels: Tensor


def check_shares(batch_size: int, world: int) -> None:
    """UserError where a batch cannot be shared out evenly over `world` processes."""
    if batch_size % world:
        raise UserError(f"batch_size={batch_size} must be a multiple of the {world} processes.")


class Batches:
    """Shuffled, augmented batches of some training images, epoch after epoch, resumable at any
    batch.

    Args:
        images: the set.
        indices: int64 [n], which training images; all of them if None.
        batch_size: images in a batch; every batch is full, so shapes are static.
        seed: seeds the order, crops, flips and cutouts.
        device: where the images live and batches are made.
        augment: shift by up to an eighth of the side, and mirror where the set allows it.
        cutout: side in pixels of a square set to zero after normalisation, at a random centre; 0
            for none.
        drawn: images in an epoch, in batches of which the last may be smaller; by default as many
            as fill whole batches. Images repeat, each time in a new order, when more are asked for.
        replacement: draw each image from all of them instead, as often as chance will have it.
        rank: this process takes every `world`-th image of each batch, from this one.
        world: processes that share each batch; `batch_size` stays the size over all of them.

    Raises:
        UserError: a size that is not positive, does not divide by `world`, or exceeds the images.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: Tensor | None = None,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        augment: bool = True,
        cutout: int = 0,
        drawn: int | None = None,
        replacement: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        chosen = torch.arange(len(images.train_images)) if indices is None else indices
        if not 1 <= batch_size <= len(chosen):
            raise UserError(
                f"batch_size={batch_size} must be between 1 and the {len(chosen)} images "
                f"that {images.name} has for this part."
            )
        check_shares(batch_size, world)
        height, width = images.train_images.shape[2:]
        if not 0 <= cutout <= min(height, width):
            raise UserError(
                f"cutout={cutout} must be between 0 and the image side {min(height, width)}."
            )
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.drawn = len(chosen) // batch_size * batch_size if drawn is None else drawn
        if self.drawn % batch_size % world:
            raise UserError(
                f"the last batch has {self.drawn % batch_size} images, which must be a multiple of "
                f"the {world} processes; keep_last=false leaves it out."
            )
        self.steps = -(-self.drawn // batch_size)
        self.epoch_index = 0
        """The epoch that the next batch belongs to, from 0."""
        self.position = 0
        """Batches already given out in that epoch."""
        self._count = len(chosen)
        self._replacement = replacement
        self._flip = augment and images.flip
        self._cutout = cutout
        self._rank, self._world = rank, world
        self._height, self._width = height, width
        self._padding = height // 8 if augment else 0  # 4 for 32x32, the usual crop
        self._padded = _pad(images.train_images[chosen], self._padding).to(self.device)
        self._labels = images.targets(images.train_labels[chosen]).to(self.device)
        self._scale, self._shift = _affine(images, self.device)
        self._generator = torch.Generator().manual_seed(seed)

    def epoch(self) -> Iterator[Batch]:
        """Give the batches of the current epoch that are still to come, then move to the next
        epoch.

        A state taken while a batch is in the consumer's hands counts that batch as done.
        """
        start = self._generator.get_state()
        draws = self._draw()
        end = self._generator.get_state()
        self._generator.set_state(start)  # `state_dict` describes the running epoch by its start
        for step in range(self.position, self.steps):
            self.position = step + 1
            yield self._batch(draws, step)
        self._generator.set_state(end)
        self.epoch_index += 1
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the batches to come."""
        return {
            "epoch": self.epoch_index,
            "position": self.position,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; the next `epoch()` gives the rest of that epoch."""
        self.epoch_index = int(state["epoch"])
        self.position = int(state["position"])
        self._generator.set_state(state["generator"])

    def _draw(self) -> dict[str, Tensor]:
        """All random choices of one epoch, [drawn] each (and 2 for a place)."""
        total = self.drawn
        generator = self._generator
        draws = {
            "order": self._order(total),
            "crop": torch.randint(2 * self._padding + 1, (total, 2), generator=generator),
        }
        if self._flip:
            draws["flip"] = torch.randint(2, (total,), generator=generator)
        if self._cutout:
            sides = torch.tensor([self._height, self._width])
            draws["cutout"] = (torch.rand(total, 2, generator=generator) * sides).long()
        return {name: values.to(self.device) for name, values in draws.items()}

    def _order(self, total: int) -> Tensor:
        if self._replacement:
            return torch.randint(self._count, (total,), generator=self._generator)
        rounds = -(-total // self._count)
        orders = [torch.randperm(self._count, generator=self._generator) for _ in range(rounds)]
        return torch.cat(orders)[:total]

    def _batch(self, draws: dict[str, Tensor], step: int) -> Batch:
        end = min(self.drawn, (step + 1) * self.batch_size)
        own = slice(step * self.batch_size + self._rank, end, self._world)
        choice = {name: values[own] for name, values in draws.items()}
        rows = torch.arange(self._height, device=self.device)
        columns = torch.arange(self._width, device=self.device)[None]
        if self._flip:
            columns = torch.where(choice["flip"][:, None] == 1, self._width - 1 - columns, columns)
        picked = self._padded[
            choice["order"][:, None, None],
            (choice["crop"][:, :1] + rows)[:, :, None],
            (choice["crop"][:, 1:] + columns)[:, None, :],
        ]
        images = torch.addcmul(self._shift, picked, self._scale)
        if self._cutout:
            # As published: the square is cut off at the border, so it covers less there.
            first = choice["cutout"] - self._cutout // 2
            last = first + self._cutout
            tall = (rows >= first[:, :1]) & (rows < last[:, :1])
            across = torch.arange(self._width, device=self.device)
            wide = (across >= first[:, 1:]) & (across < last[:, 1:])
            images.masked_fill_((tall[:, :, None] & wide[:, None, :])[..., None], 0)
        return Batch(images.permute(0, 3, 1, 2), self._labels[choice["order"]])


class SearchBatches:
    """Pairs of batches for the bilevel loop: one for the weights, one for the architecture.

    Args:
        images: the set.
        batch_size: of both batches of a pair.
        seed: seeds both streams.
        device: where batches are made.
        split: file with an official split (see `search_split`).
        stratified: see `search_split`.
        single_level: no split; both batches are drawn from all training images.
        augment: see `Batches`.
        cutout: see `Batches`.
        keep_last: the last pair of an epoch may be smaller; otherwise those images are left out.
        replacement: the arch batch's images are drawn with replacement, see `Batches`.
        rank: see `Batches`.
        world: see `Batches`.

    An epoch is one pass over the half for the weights; the other half keeps pace (and repeats if it
    is smaller).
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        split: str | os.PathLike[str] | None = None,
        stratified: bool = False,
        single_level: bool = False,
        augment: bool = True,
        cutout: int = 0,
        keep_last: bool = False,
        replacement: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        everything = torch.arange(len(images.train_images))
        halves = everything, everything
        if not single_level:
            halves = search_split(images, split, stratified=stratified)
        seeds = torch.randint(2**62, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        self.weights = Batches(
            images,
            halves[0],
            batch_size=batch_size,
            seed=seeds[0],
            device=device,
            augment=augment,
            cutout=cutout,
            drawn=len(halves[0]) if keep_last else None,
            rank=rank,
            world=world,
        )
        self.arch = Batches(
            images,
            halves[1],
            batch_size=batch_size,
            seed=seeds[1],
            device=device,
            augment=augment,
            cutout=cutout,
            drawn=self.weights.drawn,
            replacement=replacement,
            rank=rank,
            world=world,
        )

    @property
    def steps(self) -> int:
        """Pairs in an epoch."""
        return self.weights.steps

    @property
    def drawn(self) -> int:
        """Images of either half in an epoch."""
        return self.weights.drawn

    @property
    def epoch_index(self) -> int:
        """The epoch that the next pair belongs to, from 0."""
        return self.weights.epoch_index

    @property
    def position(self) -> int:
        """Pairs already given out in that epoch."""
        return self.weights.position

    def epoch(self) -> Iterator[tuple[Batch, Batch]]:
        """Give the pairs (weight batch, arch batch) of the current epoch that are still to come."""
        return zip(self.weights.epoch(), self.arch.epoch(), strict=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the pairs to come."""
        return {"weights": self.weights.state_dict(), "arch": self.arch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.weights.load_state_dict(state["weights"])
        self.arch.load_state_dict(state["arch"])


class Unaugmented:
    """Some images as they are, in order; they lie on the device as bytes.

    Args:
        images: the set, whose statistics normalise.
        pixels: uint8 [n, C, H, W].
        labels: [n] or [n, K], as the set has them.
        device: where the images live and batches are made.
    """

    def __init__(
        self, images: ImageSet, pixels: Tensor, labels: Tensor, device: torch.device | str = "cpu"
    ) -> None:
        self._pixels, self._labels = _pad(pixels, 0).to(device), images.targets(labels).to(device)
        self._scale, self._shift = _affine(images, torch.device(device))

    def __len__(self) -> int:
        return len(self._labels)

    def batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Give each image once; the last batch may be smaller.

        With several processes, each gives every `world`-th batch from `rank`.
        """
        for first in range(rank * batch_size, len(self._labels), world * batch_size):
            chosen = slice(first, first + batch_size)
            scaled = torch.addcmul(self._shift, self._pixels[chosen], self._scale)
            yield Batch(scaled.permute(0, 3, 1, 2), self._labels[chosen])


def evaluation_batches(
    images: ImageSet,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Give the test images; see `Unaugmented.batches`."""
    held = Unaugmented(images, images.test_images, images.test_labels, device)
    return held.batches(batch_size, rank=rank, world=world)


def _pad(images: Tensor, padding: int) -> Tensor:
    """uint8 [N, C, H, W] to [N, H + 2p, W + 2p, C], zero at the border."""
    count, channels, height, width = images.shape
    padded = images.new_zeros(count, height + 2 * padding, width + 2 * padding, channels)
    padded[:, padding : padding + height, padding : padding + width] = images.permute(0, 2, 3, 1)
    return padded


def _affine(images: ImageSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] that turn bytes into normalised values."""
    mean, deviation = images.normalization()
    return (1 / (255 * deviation)).to(device), (-mean / deviation).to(device)
