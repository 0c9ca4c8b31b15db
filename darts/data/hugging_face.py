"""A folder that Hugging Face's `datasets` saved (`save_to_disk`), as an image set in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Resampling
from torch.utils.data import Dataset

from darts.data.images import ImageSet, from_datasets
from darts.errors import UserError, on_one_line

HELD_OUT = ("test", "validation", "val", "valid")
"""Names of the part that is tested on; the first that is there."""


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` of a dataset or of a dictionary of them wrote the folder."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def saved_dataset(path: Path, side: int) -> ImageSet:
    """Read what `save_to_disk` wrote; nothing is fetched.

    One column holds images (the feature `Image`); the label is the column `label` or `labels`, or
    the only other one. A `Sequence` of `ClassLabel` stands for several labels an image. Of a
    dictionary the part `train` is trained on; a single dataset gives every fifth row for the test.

    Args:
        path: the folder.
        side: every image is resized to a square of so many pixels, RGB.

    Raises:
        UserError: `datasets` is not installed, or the folder, its parts or columns are not usable.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{path} was saved by Hugging Face's datasets, which is missing: pip install datasets."
        ) from error
    try:
        stored = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as a saved dataset: {on_one_line(error)}."
        ) from error
    if isinstance(stored, Mapping):
        held_out = next((name for name in HELD_OUT if name in stored), None)
        if "train" not in stored or held_out is None:
            raise UserError(
                f"{path} must have a part train and one of {', '.join(HELD_OUT)}, "
                f"not {', '.join(stored)}."
            )
        parts = stored["train"], stored[held_out]
    else:
        test = range(4, len(stored), 5)
        train = sorted(set(range(len(stored))) - set(test))
        parts = stored.select(train), stored.select(test)
    train_rows, test_rows = (_Rows(part, side, path) for part in parts)
    return from_datasets(train_rows, test_rows, name=path.name)


class _Rows(Dataset[tuple[Any, Any]]):
    """Pairs of a resized image and its label."""

    def __init__(self, stored: Any, side: int, path: Path) -> None:
        import datasets

        kinds: dict[str, Any] = stored.features
        images = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
        others = [name for name in kinds if name not in images]
        named = [name for name in ("label", "labels") if name in others]
        labels = named[:1] or others
        if len(images) != 1 or len(labels) != 1:
            raise UserError(
                f"{path} must have one column of images, and a column label or labels; "
                f"it has {', '.join(kinds)}."
            )
        self.stored, self.size = stored, (side, side)
        self.image, self.label = images[0], labels[0]
        inner = getattr(kinds[self.label], "feature", None)
        self.names: int | None = (
            inner.num_classes if isinstance(inner, datasets.ClassLabel) else None
        )

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.stored[index]
        label = row[self.label]
        if self.names is not None:
            flags = torch.zeros(self.names, dtype=torch.bool)
            flags[torch.tensor(label, dtype=torch.int64)] = True
            label = flags
        return row[self.image].convert("RGB").resize(self.size, Resampling.BILINEAR), label
