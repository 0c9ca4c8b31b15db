"""Where image sets come from: digits, torchvision's small sets, ImageNet16-120, `.npz` files."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from darts import safe_pickle
from darts.data.hugging_face import is_saved, saved_dataset
from darts.data.image_folder import image_folder
from darts.data.images import ImageSet, to_flags
from darts.errors import UserError, on_one_line
from darts.plugins import imported

DEFAULT_ROOT = Path("data")


def load(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] = DEFAULT_ROOT,
    download: bool = False,
    side: int = 32,
) -> ImageSet:
    """Load an image set by name, from an `.npz` file, or from a folder of images.

    Args:
        source: one of `SOURCES`; or `MODULE:NAME`, an entry that importing MODULE makes there; or
            the path of an `.npz` with uint8 `train_images` [N, C, H, W] and `test_images` and
            `train_labels` and `test_labels`: integers [N], 0, 1 or booleans [N, K], or floating
            numbers [N] or [N, K]; or the path of a folder, see `image_folder`, or of one that
            Hugging Face's `datasets` saved, see `saved_dataset`.
        root: folder that holds (or, with `download`, receives) torchvision's files.
        download: allow the network; without it nothing is ever fetched.
        side: that a folder's images are resized to.

    Raises:
        UserError: the name is unknown, or the files are absent, damaged or of another layout.
    """
    name = os.fspath(source)
    if name.endswith(".npz"):
        return _npz(Path(name))
    if name not in SOURCES and is_saved(Path(name)):
        return saved_dataset(Path(name), side)
    if name not in SOURCES and Path(name).is_dir():
        return image_folder(Path(name), side)
    own = imported(name, "data.source")
    if own not in SOURCES:
        raise UserError(
            f"data={own!r} is unknown; use one of {', '.join(SOURCES)}, a path to an .npz file, or "
            "a folder of images."
        )
    return SOURCES[own](Path(root), download)


def _digits(root: Path, download: bool) -> ImageSet:
    """scikit-learn's 1,797 handwritten digits, 8x8 in 17 grey levels; every fifth image is held out
    for the test.

    Scaled to 16x16, so that the last stage of a network with two stride-2 stages still sees 4x4
    maps.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(np.asarray(digits.images, dtype=np.float32))[:, None] * (255 / 16)
    large = F.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8)
    labels = torch.from_numpy(np.asarray(digits.target, dtype=np.int64))
    test = torch.arange(len(images)) % 5 == 4
    return ImageSet("digits", images[~test], labels[~test], images[test], labels[test], flip=False)


IMAGENET16_MD5 = {
    "train_data_batch_1": "27846dcaa50de8e21a7d1a35f30f0e91",
    "train_data_batch_2": "c7254a054e0e795c69120a5727050e3f",
    "train_data_batch_3": "4333d3df2e5ffb114b05d2ffc19b1e87",
    "train_data_batch_4": "1620cdf193304f4a92677b695d70d10f",
    "train_data_batch_5": "348b3c2fdbb3940c4e9e834affd3b18d",
    "train_data_batch_6": "6e765307c242a1b3d7d5ef9139b48945",
    "train_data_batch_7": "564926d8cbf8fc4818ba23d2faac7564",
    "train_data_batch_8": "f4755871f718ccb653440b9dd0ebac66",
    "train_data_batch_9": "bb6dd660c38c58552125b1a92f86b5d4",
    "train_data_batch_10": "8f03f34ac4b42271a294f91bf480f29b",
    "val_data": "3410e3017fdaefba8d5073aaa65e4bd6",
}
"""Checksums of the files of ImageNet16 (Chrabaszcz et al., 2017), as NAS-Bench-201 checks them."""


def _imagenet16_120(root: Path, download: bool) -> ImageSet:
    """NAS-Bench-201's ImageNet16-120: the first 120 classes of ImageNet at 16x16.

    The official files lie in `root` or in its folder `ImageNet16`; their checksums are verified.
    They are not public, so they are never fetched.
    """
    folder = root / "ImageNet16" if (root / "ImageNet16").is_dir() else root
    parts = []
    for prefix in ("train_data_batch_", "val_data"):
        files = [folder / name for name in IMAGENET16_MD5 if name.startswith(prefix)]
        batches = [_imagenet16_file(path) for path in files]
        pixels = np.concatenate([pixels for pixels, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        chosen = labels < 120
        images = torch.from_numpy(pixels[chosen]).view(-1, 3, 16, 16)
        parts.append((images, torch.from_numpy(labels[chosen])))
    return ImageSet("ImageNet16-120", *parts[0], *parts[1])


def _imagenet16_file(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [N, 768] and labels [N] from 0 of one of the official files."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"ImageNet16-120: {path} cannot be read ({error.strerror}); the folder must hold the "
            "official train_data_batch_1 to _10 and val_data."
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != IMAGENET16_MD5[path.name]:
        raise UserError(f"ImageNet16-120: {path} is damaged or another file: its MD5 differs.")
    entry = safe_pickle.load(io.BytesIO(content), encoding="latin1")
    labels = np.asarray(entry["labels"], dtype=np.int64) - 1
    return np.asarray(entry["data"], dtype=np.uint8), labels


def _torchvision(name: str, *, marker: str, flip: bool) -> Callable[[Path, bool], ImageSet]:
    """A loader for one of torchvision's sets; `marker` is a file or folder that each copy has."""

    def load_set(root: Path, download: bool) -> ImageSet:
        from torchvision import datasets

        kind: Callable[..., Any] = getattr(datasets, name)
        if not (root / marker).exists():
            if not download:
                raise UserError(
                    f"{name} is not in {root} ({root / marker} is missing): "
                    "put it there, name another root, or allow the download "
                    "(--set data.download=true)."
                )
            _download(kind, name, root)
        try:
            train, test = (kind(root, **part) for part in _parts(name))
        except RuntimeError as error:
            raise UserError(
                f"{name} in {root} is damaged ({str(error).splitlines()[0]}): "
                "delete it and fetch it again."
            ) from error
        arrays = [_stack(split) for split in (train, test)]
        return ImageSet(name, *arrays[0], *arrays[1], flip=flip)

    return load_set


def _parts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that select torchvision's training and test part."""
    if name == "SVHN":
        return {"split": "train"}, {"split": "test"}
    return {"train": True}, {"train": False}


def _stack(split: Any) -> tuple[Tensor, Tensor]:
    """Images as uint8 [N, C, H, W], and labels (CIFAR is stored as NHWC, SVHN as NCHW)."""
    labels = split.labels if hasattr(split, "labels") else split.targets
    pixels = torch.from_numpy(np.ascontiguousarray(split.data))
    if pixels.shape[1] != 3:
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    return pixels, torch.as_tensor(np.asarray(labels), dtype=torch.int64)


def _download(kind: Callable[..., Any], name: str, root: Path) -> None:
    """Fetch into a temporary folder and move in only what arrived whole."""
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        for part in _parts(name):
            kind(partial, download=True, **part)
        for entry in partial.iterdir():
            if entry.suffix != ".gz":  # the archive is of no more use
                os.replace(entry, root / entry.name)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name} could not be downloaded to {root}: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


SOURCES: dict[str, Callable[[Path, bool], ImageSet]] = {
    "digits": _digits,
    "cifar10": _torchvision("CIFAR10", marker="cifar-10-batches-py", flip=True),
    "cifar100": _torchvision("CIFAR100", marker="cifar-100-python", flip=True),
    "svhn": _torchvision("SVHN", marker="train_32x32.mat", flip=False),
    "imagenet16-120": _imagenet16_120,
}
"""Loaders by name; each takes the root folder and whether the network is allowed."""


def _npz(path: Path) -> ImageSet:
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    if not path.is_file():
        raise UserError(f"data={str(path)!r} does not exist.")
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [key for key in keys if key not in stored]
            if missing:
                raise UserError(
                    f"{path} lacks {', '.join(missing)}; it must hold {', '.join(keys)}."
                )
            arrays = {key: np.asarray(stored[key]) for key in keys}
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz file: {on_one_line(error)}.") from error
    images = [_image_array(arrays[key], key, path) for key in ("train_images", "test_images")]
    labels = [_label_array(arrays[key], key, path) for key in ("train_labels", "test_labels")]
    return ImageSet(path.stem, images[0], labels[0], images[1], labels[1])


def _image_array(array: NDArray[Any], key: str, path: Path) -> Tensor:
    if array.dtype != np.uint8 or array.ndim != 4:
        raise UserError(
            f"{path}: {key} must be uint8 [N, C, H, W], not {array.dtype} {list(array.shape)}."
        )
    return torch.from_numpy(array)


def _label_array(array: NDArray[Any], key: str, path: Path) -> Tensor:
    if np.issubdtype(array.dtype, np.floating):
        return torch.from_numpy(array.astype(np.float32))
    whole = np.issubdtype(array.dtype, np.integer)
    if array.ndim == 2 and (whole or array.dtype == np.bool_):
        return to_flags(torch.from_numpy(array.astype(np.int64)), f"{path}: {key}")
    if not whole or array.ndim != 1:
        raise UserError(
            f"{path}: {key} must be integers [N], 0, 1 or booleans [N, K], or floating, "
            f"not {array.dtype} {list(array.shape)}."
        )
    return torch.from_numpy(array.astype(np.int64))
