"""Which training images the weights learn from, and which the architecture."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darts.data.images import ImageSet
from darts.errors import UserError

_SPLIT_SEED = 201


def search_split(
    images: ImageSet, path: str | os.PathLike[str] | None = None, *, stratified: bool = False
) -> tuple[Tensor, Tensor]:
    """Split the training images into a half for the weights and a half for the architecture (Eq.
    1).

    Args:
        images: the set.
        path: JSON file (gzipped if it ends in `.gz`) with lists of indices `train` (weights) and
            `valid` (architecture), as NAS-Bench-201 publishes for CIFAR-10. Without it, a random
            half/half split that is the same for every seed of a search.
        stratified: of the random split: images of one label, or set of labels, go to either half
            in turn, and numbers in their order.

    Returns:
        Two int64 tensors of indices into `train_images`, disjoint.

    Raises:
        UserError: the file is unreadable or given with `stratified`, or an index is repeated or
            out of range.
    """
    count = len(images.train_images)
    if path is None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))
        if stratified:
            group = images.train_labels.unique(dim=0, return_inverse=True)[1]
            order = order[group[order].argsort(stable=True)]
            return order[1::2].sort().values, order[::2].sort().values
        return order[: count // 2].sort().values, order[count // 2 :].sort().values
    if stratified:
        raise UserError(f"stratified is for random halves, but split {Path(path)} gives them.")
    try:
        opener = gzip.open if os.fspath(path).endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8") as file:
            stored = json.load(file)
        weights, arch = (_indices(stored[part]) for part in ("train", "valid"))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"split {Path(path)} must be JSON with lists of indices `train` and `valid` "
            f"({type(error).__name__}: {error})."
        ) from error
    both = torch.cat([weights, arch])
    if len(weights) == 0 or len(arch) == 0 or len(set(both.tolist())) != len(both):
        raise UserError(
            f"split {Path(path)}: `train` and `valid` must be non-empty and share no index."
        )
    if int(both.min()) < 0 or int(both.max()) >= count:
        raise UserError(
            f"split {Path(path)} names image {int(both.max())}, "
            f"but {images.name} has {count} training images."
        )
    return weights, arch


def _indices(stored: Any) -> Tensor:
    """Indices from a list, or from the official files' pair ["int", ["0", "5", ...]]."""
    if len(stored) == 2 and stored[0] == "int":
        stored = stored[1]
    return torch.tensor([int(index) for index in stored], dtype=torch.int64)
