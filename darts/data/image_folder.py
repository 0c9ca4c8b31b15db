"""A folder of images, one folder a class, as an image set in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from darts.data.images import ImageSet, from_datasets
from darts.errors import UserError

HELD_OUT = ("test", "val", "valid")
"""Names of the folder beside `train` that is tested on; the first that is there."""


def image_folder(path: Path, side: int) -> ImageSet:
    """Read `path`/CLASS/*.jpg, .png, …, or such folders in `path`/train and `path`/test (or val).

    Without a part of its own for the test, every fifth image of the folder's order is held out.

    Args:
        path: the folder.
        side: every image is resized to a square of so many pixels, RGB.

    Raises:
        UserError: there are no classes or no images, or both parts differ in their classes.
    """
    if not (path / "train").is_dir():
        everything = _read(path, side)
        test = range(4, len(everything), 5)
        train = sorted(set(range(len(everything))) - set(test))
        return from_datasets(Subset(everything, train), Subset(everything, test), name=path.name)
    held_out = next((path / name for name in HELD_OUT if (path / name).is_dir()), None)
    if held_out is None:
        raise UserError(f"{path} has a folder train and must have one of {', '.join(HELD_OUT)}.")
    parts = _read(path / "train", side), _read(held_out, side)
    if parts[0].classes != parts[1].classes:
        raise UserError(f"{path}: train and {held_out.name} must have the same class folders.")
    return from_datasets(*parts, name=path.name)


def _read(path: Path, side: int) -> Any:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Resize

    try:
        return ImageFolder(str(path), Resize((side, side)))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} must hold images in CLASS/*.png, .jpg, … ({str(error).splitlines()[0]})."
        ) from error
