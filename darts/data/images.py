"""A labelled image set held in memory as bytes."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from darts.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """Training and test images with labels.

    Args:
        name: what messages and reports call the set.
        train_images: uint8 [N, C, H, W]; C is 1, which is repeated to 3, or more.
        train_labels: int64 [N], from 0.
        test_images: uint8 [M, C, H, W], of the same C, H and W.
        test_labels: int64 [M].
        flip: whether a mirrored image keeps its label (no for digits).

    Raises:
        UserError: a tensor has another dtype or shape, a label is negative, or a part is empty.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    flip: bool = True
    classes: int = field(init=False)
    """Number of classes: one more than the greatest label."""

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
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise UserError(
                    f"{self.name}: {part}_labels must be int64 [{len(images)}], one an image, "
                    f"not {_describe(labels)}."
                )
            if int(labels.min()) < 0:
                raise UserError(
                    f"{self.name}: {part}_labels must count from 0, "
                    f"but the smallest is {int(labels.min())}."
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise UserError(
                f"{self.name}: training images are {list(self.train_images.shape[1:])} but test "
                f"images {list(self.test_images.shape[1:])}; channels, height and width must match."
            )
        greatest = max(int(self.train_labels.max()), int(self.test_labels.max()))
        object.__setattr__(self, "classes", greatest + 1)

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

    An image is a PIL image, a uint8 array or tensor ([H, W], [H, W, C] for arrays, [C, H, W] for
    tensors), or a floating tensor [C, H, W] of values in [0, 1].

    Raises:
        UserError: an image is none of these, shapes differ, a dataset has no length, or labels are
            no integers that count from 0.
    """
    train_images, train_labels = _read(train, f"{name} (train)")
    if lowest := int(train_labels.min()):
        raise UserError(f"{name}: labels must count from 0, but the smallest is {lowest}.")
    test_images, test_labels = _read(test, f"{name} (test)")
    return ImageSet(name, train_images, train_labels, test_images, test_labels, flip=flip)


def _read(dataset: Dataset[Any], name: str) -> tuple[Tensor, Tensor]:
    if not isinstance(dataset, Sized) or len(dataset) == 0:
        raise UserError(f"{name}: the dataset must have a length greater than zero.")
    images: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(dataset)):
        image, label = dataset[index]
        pixels = _to_bytes(image, f"{name}, item {index}")
        if images and pixels.shape != images[0].shape:
            raise UserError(
                f"{name}, item {index}: shape {list(pixels.shape)} differs from item 0's "
                f"{list(images[0].shape)}, and all images must be of one size."
            )
        images.append(pixels)
        labels.append(_to_class(label, f"{name}, item {index}"))
    return torch.stack(images), torch.tensor(labels)


def _to_class(label: Any, where: str) -> int:
    """One label as a class; a number with a fraction is a regression's, not a class."""
    value = label.item() if isinstance(label, (Tensor, np.generic)) else label
    if not isinstance(value, int):
        raise UserError(
            f"{where}: a label must be an integer, the class counted from 0, not {value!r}."
        )
    return value


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
