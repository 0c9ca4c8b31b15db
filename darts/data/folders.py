"""ImageNet from folders of JPEG files, through a DataLoader.

Images of this size do not fit on the device, and decoding needs worker processes. Each image's
random draws depend on the seed, the epoch and its index alone, so batches do not depend on the
number of workers and an epoch can be resumed at any batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from darts.data.batches import Batch, Batches, check_shares, evaluation_batches
from darts.data.images import ImageSet
from darts.data.sources import DEFAULT_ROOT, load
from darts.errors import UserError

SIDE = 224
"""Height and width of the images given out."""
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""The usual statistics of ImageNet's channels, for values in [0, 1]."""


class Folders:
    """ImageNet as folders `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`.

    Args:
        root: holds the two folders, or a folder `imagenet` that does.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        UserError: a folder is missing or empty, or the classes of the two differ.
    """

    def __init__(self, root: Path, *, workers: int) -> None:
        from torchvision.datasets import ImageFolder

        base = root / "imagenet" if (root / "imagenet").is_dir() else root
        try:
            self.train, self.val = (ImageFolder(str(base / part)) for part in ("train", "val"))
        except (FileNotFoundError, OSError) as error:
            raise UserError(
                f"ImageNet is not in {base}: it must hold train/CLASS/*.JPEG and val/CLASS/*.JPEG "
                f"({str(error).splitlines()[0]})."
            ) from error
        if self.train.classes != self.val.classes:
            raise UserError(f"{base}: train and val must have the same class folders.")
        self.name = "ImageNet"
        self.classes = len(self.train.classes)
        self.shape = (3, SIDE, SIDE)
        self.train_labels = torch.tensor(self.train.targets)
        self.workers = workers

    def unit(self) -> None:
        """Classes have none; see `ImageSet.unit`."""

    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, for pixels in [0, 1]."""
        return torch.tensor(MEAN), torch.tensor(DEVIATION)


Data = ImageSet | Folders
"""What networks are trained on."""


def load_data(
    source: str,
    *,
    root: str | os.PathLike[str] = DEFAULT_ROOT,
    download: bool,
    workers: int,
    side: int = 32,
) -> Data:
    """What `darts.data.load` gives, and `imagenet`.

    Raises:
        UserError: see `load` and `Folders`.
    """
    if source == "imagenet":
        return Folders(Path(root), workers=workers)
    return load(source, root=root, download=download, side=side)


class _Drawn(Dataset[tuple[Tensor, int]]):
    """Decoded and augmented images, each with its own random draws."""

    def __init__(self, folder: Any, transform: Callable[[Any], Tensor], seeds: Tensor) -> None:
        self.folder, self.transform, self.seeds = folder, transform, seeds

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.folder.samples[index]
        image = self.folder.loader(path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.seeds[index]))
            return self.transform(image), label


def training_transform() -> Callable[[Any], Tensor]:
    """Random crop to 8-100 % of the area, mirror, colour jitter, as DARTS trains on ImageNet."""
    from torchvision import transforms as T

    return T.Compose(  # type: ignore[no-any-return]
        [
            T.RandomResizedCrop(SIDE),
            T.RandomHorizontalFlip(),
            T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
            T.ToTensor(),
            T.Normalize(MEAN, DEVIATION),
        ]
    )


def testing_transform() -> Callable[[Any], Tensor]:
    """The middle of the image scaled to 256 pixels."""
    from torchvision import transforms as T

    return T.Compose(  # type: ignore[no-any-return]
        [T.Resize(256), T.CenterCrop(SIDE), T.ToTensor(), T.Normalize(MEAN, DEVIATION)]
    )


class FolderBatches:
    """Batches of ImageNet with the interface of `Batches`.

    Args:
        data: the folders.
        batch_size: every batch is full.
        seed: seeds the order and every augmentation.
        device: where the batches end up.
        augment: off gives the test's transform.
        rank, world: see `Batches`.

    Raises:
        UserError: the batch size is not positive, exceeds the images, or does not divide by
            `world`.
    """

    def __init__(
        self,
        data: Folders,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        augment: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 1 <= batch_size <= len(data.train):
            raise UserError(
                f"batch_size={batch_size} must be between 1 and the {len(data.train)} images."
            )
        check_shares(batch_size, world)
        self.data, self.batch_size, self.device = data, batch_size, torch.device(device)
        self.transform = training_transform() if augment else testing_transform()
        self.steps = len(data.train) // batch_size
        self.epoch_index = 0
        self.position = 0
        self._seed = seed
        self._own = slice(rank, None, world)

    def epoch(self) -> Iterator[Batch]:
        """Give the batches of the current epoch that are still to come; see `Batches.epoch`."""
        generator = torch.Generator().manual_seed(self._seed + 1_000_003 * self.epoch_index)
        count = len(self.data.train)
        order = torch.randperm(count, generator=generator)[: self.steps * self.batch_size]
        seeds = torch.randint(2**31, (count,), generator=generator)
        left = order.view(self.steps, self.batch_size)[self.position :, self._own]
        drawn = _Drawn(self.data.train, self.transform, seeds)
        for batch in _loader(drawn, left.tolist(), self.data.workers):
            self.position += 1
            yield _to_device(batch, self.device)
        self.epoch_index += 1
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the batches to come, beside the seed."""
        return {"epoch": self.epoch_index, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.epoch_index, self.position = int(state["epoch"]), int(state["position"])


def training_batches(
    data: Data,
    *,
    batch_size: int,
    seed: int,
    device: str,
    augment: bool,
    cutout: int,
    rank: int = 0,
    world: int = 1,
) -> Batches | FolderBatches:
    """The stream of training batches that suits the data; `rank` and `world` as in `Batches`."""
    if isinstance(data, ImageSet):
        return Batches(
            data,
            batch_size=batch_size,
            seed=seed,
            device=device,
            augment=augment,
            cutout=cutout,
            rank=rank,
            world=world,
        )
    if cutout:
        raise UserError(f"cutout={cutout} is for small images; ImageNet takes 0.")
    return FolderBatches(
        data,
        batch_size=batch_size,
        seed=seed,
        device=device,
        augment=augment,
        rank=rank,
        world=world,
    )


def held_out_batches(
    data: Data, *, batch_size: int, device: str, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The test (or validation) images once, in order and unaugmented; see `evaluation_batches`."""
    if isinstance(data, ImageSet):
        return evaluation_batches(
            data, batch_size=batch_size, device=device, rank=rank, world=world
        )
    drawn = _Drawn(data.val, testing_transform(), torch.zeros(len(data.val), dtype=torch.int64))
    order = torch.arange(len(data.val)).split(batch_size)[rank::world]  # type: ignore[no-untyped-call]
    loader = _loader(drawn, [indices.tolist() for indices in order], data.workers)
    return (_to_device(batch, torch.device(device)) for batch in loader)


def _loader(
    images: _Drawn, batches: list[list[int]], workers: int
) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the global one
    )


def _to_device(batch: Any, device: torch.device) -> Batch:
    images, labels = batch
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return Batch(images, labels.to(device, non_blocking=True))
