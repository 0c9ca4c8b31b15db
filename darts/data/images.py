"""A labelled image set held in memory as bytes."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from darts.data.targets import KINDS
from darts.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """Training and test images with labels.

    Args:
        name: what messages and reports call the set.
        train_images: uint8 [N, C, H, W]; C is 1, which is repeated to 3, or more.
        train_labels: int64 [N], classes from 0; or bool [N, K], which of K labels an image has;
            or floating [N] or [N, K], numbers.
        test_images: uint8 [M, C, H, W], of the same C, H and W.
        test_labels: of the same kind, [M] or [M, K].
        flip: whether a mirrored image keeps its label (no for digits).

    Raises:
        UserError: a tensor has another dtype or shape, a class is negative, a number is not
            finite, or a part is empty.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    flip: bool = True
    classes: int = field(init=False)
    """Outputs of a network: classes, one more than the greatest; or K labels or numbers."""

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images: Tensor = getattr(self, f"{part}_images")
            labels: Tensor = getattr(self, f"{part}_labels")
            if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
                raise UserError(
                    f"{self.name}: {part}_images must be non-empty uint8 [N, C, H, W], "
                    f"not {_describe(images)}."
                )
            if images.shape[1] == 1:  # the networks take colour images
                object.__setattr__(self, f"{part}_images", images.expand(-1, 3, -1, -1))
            if labels.is_floating_point():
                labels = labels.float() if labels.ndim > 1 else labels.float()[:, None]
                object.__setattr__(self, f"{part}_labels", labels)
            dimensions = 1 if labels.dtype == torch.int64 else 2
            if (
                labels.dtype not in KINDS
                or labels.shape[:1] != images.shape[:1]
                or labels.ndim != dimensions
                or 0 in labels.shape
            ):
                raise UserError(
                    f"{self.name}: {part}_labels must be int64 [{len(images)}], one an image, "
                    f"bool [{len(images)}, labels], or floating, not {_describe(labels)}."
                )
            if not labels.isfinite().all():
                raise UserError(f"{self.name}: {part}_labels must be finite numbers.")
            if int(labels.min()) < 0 and labels.dtype == torch.int64:
                raise UserError(
                    f"{self.name}: {part}_labels must count from 0, "
                    f"but the smallest is {int(labels.min())}."
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise UserError(
                f"{self.name}: training images are {list(self.train_images.shape[1:])} but test "
                f"images {list(self.test_images.shape[1:])}; channels, height and width must match."
            )
        train, test = self.train_labels, self.test_labels
        if train.dtype != test.dtype or train.shape[1:] != test.shape[1:]:
            raise UserError(
                f"{self.name}: training labels are {_describe(train)} but test labels "
                f"{_describe(test)}; their kind and number must match."
            )
        greatest = max(int(train.max()), int(test.max())) if train.ndim == 1 else 0
        object.__setattr__(self, "classes", greatest + 1 if train.ndim == 1 else train.shape[1])

    def unit(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation, float32 [K], of the numbers that training images are labelled with.

        Networks learn numbers less the mean, in deviations. None for classes and labels.
        """
        if not self.train_labels.is_floating_point():
            return None
        values = self.train_labels.double()
        deviation = values.std(0, correction=0)
        return values.mean(0).float(), deviation.where(deviation > 0, 1).float()

    def targets(self, labels: Tensor) -> Tensor:
        """Labels as networks learn them: numbers in their `unit`, all others as they are."""
        unit = self.unit()
        return labels if unit is None else (labels - unit[0]) / unit[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training images, float32 [C], for
        pixels in [0, 1].

        Computed from exact per-value counts, so it is the same on every machine.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = torch.stack(
            [
                torch.bincount(channel.flatten(), minlength=256)
                for channel in self.train_images.unbind(1)
            ]
        ).double()
        shares = counts / counts.sum(1, keepdim=True)
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(1)
        # A constant channel carries nothing; leave it at zero instead of dividing by zero.
        deviation = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
        return mean.float(), deviation.float()


def from_datasets(
    train: Dataset[Any], test: Dataset[Any], *, name: str = "data", flip: bool = True
) -> ImageSet:
    """Read two map-style torch datasets of (image, label) pairs into memory.

    A label is an integer, the class; a list, array or tensor of booleans or of integers 0 and 1,
    one for each label that there is; or a floating number, or several.

    An image is a PIL image, a uint8 array or tensor ([H, W], [H, W, C] for arrays, [C, H, W] for
    tensors), or a floating tensor [C, H, W] of values in [0, 1].

    Raises:
        UserError: an image is none of these, shapes differ, a dataset has no length, or labels are
            none of these or of several kinds, or classes do not count from 0.
    """
    train_images, train_labels = _read(train, f"{name} (train)")
    if train_labels.dtype == torch.int64 and (lowest := int(train_labels.min())):
        raise UserError(f"{name}: labels must count from 0, but the smallest is {lowest}.")
    test_images, test_labels = _read(test, f"{name} (test)")
    return ImageSet(name, train_images, train_labels, test_images, test_labels, flip=flip)


def _read(dataset: Dataset[Any], name: str) -> tuple[Tensor, Tensor]:
    if not isinstance(dataset, Sized) or len(dataset) == 0:
        raise UserError(f"{name}: the dataset must have a length greater than zero.")
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for index in range(len(dataset)):
        image, label = dataset[index]
        pixels = _to_bytes(image, f"{name}, item {index}")
        if images and pixels.shape != images[0].shape:
            raise UserError(
                f"{name}, item {index}: shape {list(pixels.shape)} differs from item 0's "
                f"{list(images[0].shape)}, and all images must be of one size."
            )
        images.append(pixels)
        target = _to_label(label, f"{name}, item {index}")
        if labels and (target.dtype, target.shape) != (labels[0].dtype, labels[0].shape):
            raise UserError(
                f"{name}, item {index}: the label is {_describe(target)}, "
                f"but that of item 0 is {_describe(labels[0])}."
            )
        labels.append(target)
    return torch.stack(images), torch.stack(labels)


def _to_label(label: Any, where: str) -> Tensor:
    """One label: int64 [] for a class, bool [K] for labels, float32 [K] for numbers."""
    try:
        value = torch.as_tensor(np.asarray(label))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where}: a label must be a class, a list of booleans, or numbers, not {label!r}."
        ) from error
    if value.is_floating_point():
        return value.float().reshape(-1)
    if value.ndim == 1:
        return to_flags(value, where)
    if value.ndim or value.dtype == torch.bool:
        raise UserError(f"{where}: a label must have at most one dimension, not {label!r}.")
    return value.long()


def to_flags(labels: Tensor, where: str) -> Tensor:
    """Booleans of integers that are 0 or 1.

    Raises:
        UserError: one is neither.
    """
    if labels.dtype != torch.bool and not ((labels == 0) | (labels == 1)).all():
        raise UserError(f"{where}: several labels an image must be 0 or 1, or booleans, each.")
    return labels.bool()


def _to_bytes(image: Any, where: str) -> Tensor:
    """One image as uint8 [C, H, W]."""
    pixels: Tensor
    if isinstance(image, Tensor):
        if image.is_floating_point():
            if float(image.min()) < 0 or float(image.max()) > 1:
                raise UserError(
                    f"{where}: a floating image must lie in [0, 1], not [{float(image.min()):.3g}, "
                    f"{float(image.max()):.3g}] (leave out the normalisation)."
                )
            image = (image * 255).round().to(torch.uint8)
        pixels = image[None] if image.ndim == 2 else image
    else:
        array = torch.from_numpy(np.array(image))
        pixels = array[None] if array.ndim == 2 else array.movedim(-1, 0)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3:
        raise UserError(
            f"{where}: an image must be PIL, uint8 or floating in [0, 1], with 2 or 3 dimensions, "
            f"not {_describe(pixels)}."
        )
    return pixels.contiguous()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
