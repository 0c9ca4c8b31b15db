"""Losses and measures of every kind of labels, against plain float64 sums and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, r2_score, root_mean_squared_error
from torch import Tensor

from darts.config import ImageConfig
from darts.data import ImageSet, from_datasets, search_split
from darts.data.targets import KINDS, criterion, measures, score, sums
from darts.errors import UserError

CLASSES, FLAGS, NUMBERS = KINDS


def draw(dtype: torch.dtype, count: int, outputs: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    if dtype == CLASSES:
        return torch.randint(outputs, (count,), generator=source)
    values = torch.randn(count, outputs, generator=source)
    return values > 0.5 if dtype == FLAGS else values


def image_set(labels: Tensor) -> ImageSet:
    pixels = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    return ImageSet("set", pixels, labels, pixels, labels)


@pytest.mark.parametrize("dtype", KINDS)
def test_a_named_loss_is_the_mean_over_the_batch(dtype: torch.dtype) -> None:
    labels, logits = draw(dtype, 9, 4), torch.randn(9, 4, dtype=torch.float64)
    loss = criterion(ImageConfig(loss=KINDS[dtype].loss), labels, 4)(logits, labels)
    if dtype == CLASSES:
        expected = -logits.log_softmax(1)[torch.arange(9), labels].mean()
    elif dtype == FLAGS:
        signs = torch.where(labels, 1.0, -1.0).double()
        expected = (1 + (-signs * logits).exp()).log().mean()
    else:
        expected = (logits - labels).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)


def test_balanced_classes_weigh_alike() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    config = ImageConfig(class_weights="balanced")
    loss = criterion(config, labels, 3)
    logits = torch.randn(10, 3)
    each = F.cross_entropy(logits, labels, reduction="none")
    parts = [each[labels == c].mean() for c in range(3)]
    torch.testing.assert_close(loss(logits, labels), torch.stack(parts).mean())
    # The mean over two processes' halves is the loss of the whole batch.
    halves = [loss(logits[half::2], labels[half::2]) for half in (0, 1)]
    torch.testing.assert_close(torch.stack(halves).mean(), loss(logits, labels))
    given = criterion(ImageConfig(class_weights="1,2,6"), labels, 3)
    torch.testing.assert_close(given(logits, labels), loss(logits, labels))


def test_balanced_labels_weigh_present_as_absent() -> None:
    labels = torch.tensor([[True, False], [False, False], [False, True], [False, True]])
    loss = criterion(ImageConfig(loss="bce", class_weights="balanced"), labels, 2)
    logits = torch.zeros(4, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(2))


@pytest.mark.parametrize(
    ("config", "dtype", "words"),
    [
        ({}, NUMBERS, "loss=cross-entropy does not suit labels that are numbers; use mse"),
        ({}, FLAGS, "several labels an image; use bce"),
        ({"loss": "mse"}, CLASSES, "one class an image; use cross-entropy"),
        ({"loss": "hinge"}, CLASSES, "must be one of cross-entropy, bce, mse, or MODULE:NAME"),
        ({"loss": "mse", "class_weights": "balanced"}, NUMBERS, "and bce, not mse"),
        ({"class_weights": "1,2"}, CLASSES, "must be balanced, or 3 positive numbers"),
        ({"class_weights": "1,2,0"}, CLASSES, "must be balanced, or 3 positive numbers"),
        ({"class_weights": "some"}, CLASSES, "must be balanced, or 3 positive numbers"),
    ],
)
def test_a_loss_that_does_not_suit(config: dict[str, Any], dtype: torch.dtype, words: str) -> None:
    with pytest.raises(UserError, match=words):
        criterion(ImageConfig(**config), draw(dtype, 8, 3), 3)


def test_smoothing_is_for_the_cross_entropy() -> None:
    with pytest.raises(UserError, match=r"label_smoothing=0\.1 is for data\.loss=cross-entropy"):
        criterion(ImageConfig(loss="mse"), draw(NUMBERS, 8, 3), 3, 0.1)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(KINDS)), st.integers(2, 40), st.integers(1, 7), st.integers(0, 99))
def test_measures_are_those_of_all_samples(
    dtype: torch.dtype, count: int, outputs: int, seed: int
) -> None:
    labels, logits = draw(dtype, count, outputs, seed), draw(NUMBERS, count, outputs, seed + 100)
    deviation = torch.linspace(1, 3, outputs) if dtype == NUMBERS else None
    cut = count // 2
    parts = [sums(logits[part], labels[part]) for part in (slice(cut), slice(cut, None))]
    first, second = measures(parts[0] + parts[1], dtype, deviation).values()
    if dtype == CLASSES:
        order = logits.argsort(1, descending=True)
        assert first == pytest.approx(100 * float((order[:, 0] == labels).double().mean()))
        within = (order[:, :5] == labels[:, None]).any(1)
        assert second == pytest.approx(100 * float(within.double().mean()))
    elif dtype == FLAGS:
        guessed = (logits > 0).numpy()
        assert first == pytest.approx(100 * np.mean((guessed == labels.numpy()).all(1)))
        expected = f1_score(labels.numpy().ravel(), guessed.ravel(), zero_division=1.0)
        assert second == pytest.approx(100 * expected)
    else:
        assert deviation is not None
        ours, theirs = (t.double().numpy() for t in (logits, labels))
        assert first == pytest.approx(100 * r2_score(theirs, ours), rel=1e-6)
        unit = deviation.double().numpy()
        squares = root_mean_squared_error(theirs * unit, ours * unit, multioutput="raw_values")
        assert second == pytest.approx(float(np.sqrt((squares**2).mean())), rel=1e-6)


def test_scores_add_up() -> None:
    labels = draw(NUMBERS, 50, 2)
    found = image_set(labels)
    targets = found.targets(labels)
    torch.testing.assert_close(targets.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    logits = targets + torch.randn(50, 2) / 5
    expected = r2_score(targets.numpy(), logits.numpy())
    assert float(score(logits, targets)) / 50 == pytest.approx(expected, rel=1e-5)
    assert score(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[True, False]] * 2)) == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=60))
def test_stratified_halves_share_every_class_out(classes: list[int]) -> None:
    labels = torch.tensor(classes)
    weights, arch = search_split(image_set(labels), stratified=True)
    assert sorted([*weights.tolist(), *arch.tolist()]) == list(range(len(labels)))
    assert len(weights) == len(labels) // 2
    counts = [torch.bincount(labels[half], minlength=4) for half in (weights, arch)]
    assert int((counts[0] - counts[1]).abs().max()) <= 1


@pytest.mark.parametrize("dtype", [FLAGS, NUMBERS])
def test_stratified_halves_of_other_labels(dtype: torch.dtype) -> None:
    found = image_set(draw(dtype, 41, 2))
    weights, arch = search_split(found, stratified=True)
    first, second = (found.train_labels[half].double().mean(0) for half in (weights, arch))
    torch.testing.assert_close(first, second, rtol=0, atol=0.15)
    with pytest.raises(UserError, match="stratified is for random halves"):
        search_split(found, "file.json", stratified=True)


def test_labels_of_a_dataset() -> None:
    pixels = torch.rand(3, 3, 4, 4)
    for label, dtype, shape in (
        (2, CLASSES, [3]),
        (np.float64(0.5), NUMBERS, [3, 1]),
        ([0.5, 1.0], NUMBERS, [3, 2]),
        ([1, 0, 1], FLAGS, [3, 3]),
        (torch.tensor([True, False]), FLAGS, [3, 2]),
    ):
        pairs = [(image, label) for image in pixels]
        if dtype == CLASSES:
            pairs[0] = (pixels[0], 0)
        found = from_datasets(pairs, pairs)  # type: ignore[arg-type]
        assert (found.train_labels.dtype, list(found.train_labels.shape)) == (dtype, shape)
    mixed = [(pixels[0], [1, 0]), (pixels[1], [1, 0, 1])]
    with pytest.raises(UserError, match=r"item 1: the label is bool \[3\], but .* item 0 is bool"):
        from_datasets(mixed, mixed)  # type: ignore[arg-type]
    unlabelled = [(pixels[0], "cat")]
    with pytest.raises(UserError, match="must be a class, a list of booleans, or numbers"):
        from_datasets(unlabelled, unlabelled)  # type: ignore[arg-type]
