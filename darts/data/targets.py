"""What images are labelled with: one class, several labels at once, or numbers.

The dtype of the labels says which, on the device too: int64 [N] for classes, bool [N, K] for
labels, float32 [N, K] for numbers. A network has an output for each class, label or number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from darts.config import ImageConfig
from darts.errors import UserError
from darts.plugins import attribute

MEASURES = {
    "top1": "top-1",
    "top5": "top-5",
    "exact_match": "all labels right",
    "f1": "F1",
    "r2": "R²",
    "rmse": "RMSE",
}
"""What is measured on the test images, as `result.json` names it, and as a reader is told."""


class Kind(NamedTuple):
    """A kind of labels."""

    loss: str
    """The loss that suits it."""
    words: str
    measures: tuple[str, str]
    """Of `MEASURES`; all in percent but for `rmse`, which is in the labels' own units. F1 is that
    of all labels of all images together; R² is the share of the variance of the test labels that
    is explained, the mean over the outputs."""


KINDS = {
    torch.int64: Kind("cross-entropy", "one class an image", ("top1", "top5")),
    torch.bool: Kind("bce", "several labels an image", ("exact_match", "f1")),
    torch.float32: Kind("mse", "numbers", ("r2", "rmse")),
}
"""By the dtype of the labels."""

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits [B, K] and labels of a batch → the mean loss, 0-d."""


@dataclass(frozen=True)
class Loss:
    """One of the named losses, with weights; called as a `Criterion`.

    The mean is over the batch and the outputs. Weighted samples are divided by their number, not
    by the sum of their weights, so that the mean over processes is that of the whole batch.
    """

    kind: Kind
    weights: Tensor | None
    """Float32 [K], of each class, or of each label where it is present."""
    smoothing: float
    """Label smoothing of the cross-entropy."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, 0-d."""
        if self.kind.loss == "mse":
            return F.mse_loss(logits, labels.to(logits.dtype))
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        if self.kind.loss == "bce":
            wanted = labels.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights)
        smoothing = self.smoothing
        if weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        each = F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)
        return each.mean()


def criterion(config: ImageConfig, labels: Tensor, outputs: int, smoothing: float = 0) -> Criterion:
    """The loss that `config.loss` names, for training images with `labels`, on their device.

    Args:
        config: the settings.
        labels: of the training images, as the module says.
        outputs: of the network.
        smoothing: label smoothing of the cross-entropy.

    Raises:
        UserError: the loss does not suit the labels, or a setting does not suit the loss.
    """
    kind, name = KINDS[labels.dtype], config.loss
    own = ":" in name
    if not own and name not in {known.loss for known in KINDS.values()}:
        losses = ", ".join(known.loss for known in KINDS.values())
        raise UserError(f"data.loss={name!r} must be one of {losses}, or MODULE:NAME.")
    if not own and name != kind.loss:
        raise UserError(
            f"data.loss={name} does not suit labels that are {kind.words}; use {kind.loss}."
        )
    if smoothing and name != "cross-entropy":
        raise UserError(f"label_smoothing={smoothing} is for data.loss=cross-entropy, not {name}.")
    if own or name == "mse":
        if config.class_weights:
            raise UserError(
                f"data.class_weights={config.class_weights} is for data.loss=cross-entropy and "
                f"bce, not {name}."
            )
        if own:
            found: Criterion = attribute(name, "data.loss")
            return found
    weights = _weights(config.class_weights, labels, outputs) if config.class_weights else None
    return Loss(kind, weights, smoothing)


def _weights(asked: str, labels: Tensor, outputs: int) -> Tensor:
    """float32 [outputs]: of classes, with mean 1 over the images; of labels, where present."""
    several = labels.dtype == torch.bool
    counts = labels.sum(0) if several else torch.bincount(labels, minlength=outputs)
    counts = counts.double()
    if asked == "balanced":
        # What no image has pulls at nothing; its weight only must be finite.
        wanted = (len(labels) - counts if several else torch.ones_like(counts)) / counts.clamp(1)
    else:
        try:
            wanted = counts.new_tensor([float(part) for part in asked.split(",")])
        except ValueError:
            wanted = counts.new_zeros(0)
        if len(wanted) != outputs or not wanted.isfinite().all() or not (wanted > 0).all():
            raise UserError(
                f"data.class_weights={asked!r} must be balanced, or {outputs} positive numbers "
                "with commas between."
            )
    if not several:
        wanted = wanted * len(labels) / (wanted * counts).sum()
    return wanted.float()


def score(logits: Tensor, labels: Tensor) -> Tensor:
    """How right the outputs are, summed over the samples, 0-d: 1 for a sample that is.

    For classes the greatest logit must be the class's; for several labels the logit's sign must be
    right for all; numbers, which networks see with mean 0 and deviation 1, count 1 − squared error,
    the mean over the outputs: over all samples, R² against the training labels' variance.
    """
    if labels.dtype == torch.int64:
        return (logits.argmax(1) == labels).sum()
    if labels.dtype == torch.bool:
        return ((logits > 0) == labels).all(1).sum()
    return (1 - (logits - labels).square().mean(1)).sum()


def sums(logits: Tensor, labels: Tensor) -> Tensor:
    """What `measures` needs of some samples: float64, to be added up over all."""
    if labels.dtype == torch.int64:
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        found = [best[:, 0].sum(), best.sum()]
    elif labels.dtype == torch.bool:
        guessed = logits > 0
        right = (guessed & labels).sum()
        found = [(guessed == labels).all(1).sum(), 2 * right, guessed.sum() + labels.sum()]
    else:
        error = (logits.double() - labels).square().sum(0)
        values = labels.double()
        return torch.stack(
            [torch.full_like(error, len(labels)), error, values.sum(0), values.square().sum(0)]
        )
    return torch.stack([labels.new_tensor(len(labels), dtype=torch.int64), *found]).double()


def measures(total: Tensor, dtype: torch.dtype, deviation: Tensor | None) -> dict[str, float]:
    """`MEASURES` of the samples that `total`, a sum of `sums`, is of; see `Kind`.

    Args:
        total: on the CPU.
        dtype: of the labels.
        deviation: [K], of numbers: the unit in which networks see them.
    """
    names = KINDS[dtype].measures
    if dtype != torch.float32:
        count, first, second, *rest = total.tolist()
        whole = rest[0] if rest else count
        return {names[0]: 100 * first / count, names[1]: 100 * second / whole if whole else 100.0}
    assert deviation is not None
    count, error, added, squared = total
    variation = squared - added.square() / count
    # As usual, a constant is explained in full or not at all.
    unexplained = torch.where(variation > 0, error / variation, (error > 0).double())
    own = (error / count * deviation.double().square()).mean().sqrt()
    return {names[0]: float(100 * (1 - unexplained.mean())), names[1]: float(own)}
