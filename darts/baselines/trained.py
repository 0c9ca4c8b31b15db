"""Searches on real training: every cell that a searcher asks about is trained and measured."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darts.baselines.searcher import Cells, MakeSearcher
from darts.data import Data, ImageSet, search_split
from darts.errors import UserError
from darts.files import csv_text, read_csv, write_text
from darts.networks.genotype import Choice, Genotype
from darts.spaces import Space
from darts.training.evaluation_config import EvaluationConfig, configure_evaluation
from darts.training.scratch import Training


@dataclass(frozen=True)
class Trained:
    """One network that a search trained."""

    genotype: str
    epochs: int
    valid: float
    """Top-1 accuracy in percent on the held-out half of the training images."""
    cost: float
    """Epochs trained so far in all, in whole trainings."""
    seconds: float

    def better_than(self, other: Trained) -> bool:
        """Of two that trained as long, the more accurate; otherwise the longer training."""
        return (self.epochs, self.valid) > (other.epochs, other.valid)


def write_networks(path: Path, networks: Sequence[Trained]) -> None:
    """Write them as CSV, a line each, whole or not at all; `read_networks` reads the same again."""
    heading = [field.name for field in dataclasses.fields(Trained)]
    write_text(path, csv_text([heading, *(asdict(network).values() for network in networks)]))


def read_networks(path: Path) -> list[Trained]:
    """What `write_networks` wrote.

    Raises:
        UserError: it is another file.
    """
    lines = read_csv(path, typing.get_type_hints(Trained))
    if lines is None:
        raise UserError(f"{path} is not a file of trained networks.")
    return [Trained(**line) for line in lines]


def search_by_training(
    space: Space,
    make: MakeSearcher,
    images: Data,
    *,
    networks: float,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    done: Sequence[Trained] = (),
    report: Callable[[Trained], None] = lambda trained: None,
) -> list[Trained]:
    """Run one search, in which every answer is a training from scratch.

    A random half of the training images trains, the other measures; the test images are not used.

    Args:
        space: a stacked one: every edge has an operation.
        make: the searcher.
        images: a set in memory.
        networks: whole trainings that the search may cost.
        seed: of the searcher's draws, and of each training.
        settings: of `configure_evaluation`; `training.epochs` is a whole training.
        done: networks that the same search has trained before, in order; they are not trained
            again.
        report: told each network that is trained.

    Returns:
        Every network, in order.

    Raises:
        UserError: the space or the images are of another kind, `networks` is below 1, `done` is of
            another search, or a training diverges.
    """
    if not space.stacked:
        raise UserError(f"space={space.name!r} must be nb201's or one of your own of its skeleton.")
    if networks < 1:
        raise UserError(f"networks={networks} must be at least 1.")
    halves = _halves(images)
    searcher = make(space.cells["cell"].shape, 1, np.random.default_rng(seed))
    found: list[Trained] = []
    spent = 0
    while True:
        question = searcher.ask()
        genotype = str(decoded(space, question.cells[0]))
        config = configure_evaluation(**{**(settings or {}), "genotype": genotype})
        whole = config.training.epochs
        epochs = round(whole * question.share)
        if epochs < 1:
            raise UserError(
                f"training.epochs={whole} must be at least {round(1 / question.share)}, "
                "of which the shortest training is a share."
            )
        if (spent + epochs) / whole > networks:
            return found
        spent += epochs
        if len(found) < len(done):
            trained = done[len(found)]
            if (trained.genotype, trained.epochs) != (genotype, epochs):
                raise UserError(
                    f"network {len(found) + 1} of those that are done is {trained.genotype}, "
                    f"{trained.epochs} epochs, where this search trains {genotype}, {epochs}."
                )
        else:
            valid, seconds = _train(config, epochs, halves, seed)
            trained = Trained(genotype, epochs, valid, spent / whole, seconds)
            report(trained)
        searcher.tell(np.array([trained.valid]))
        found.append(trained)


def decoded(space: Space, cell: Cells) -> Genotype:
    """The architecture of one cell, [edges], of a stacked space."""
    table = space.cells["cell"]
    choices = [
        Choice(row[operation], *edge)
        for edge, row, operation in zip(table.edges, table.candidates, cell, strict=True)
    ]
    return Genotype(space.skeleton, (("cell", tuple(choices)),))


def _train(
    config: EvaluationConfig, epochs: int, images: ImageSet, seed: int
) -> tuple[float, float]:
    """Accuracy on the other half after the last of `epochs` epochs, and the seconds of all."""
    shortened = dataclasses.replace(config.training, epochs=epochs)
    training = Training(dataclasses.replace(config, training=shortened), images, seed)
    seconds = 0.0
    while not training.finished:
        record = training.run_epoch()
        seconds += record["seconds"]
    return record["test_top1"], seconds


def _halves(images: Data) -> ImageSet:
    """A set that trains on one half of the training images and is measured on the other."""
    if not isinstance(images, ImageSet):
        raise UserError(f"{images.name} must be a data set in memory, not a folder of ImageNet.")
    train, held_out = search_split(images)
    halves = ImageSet(
        images.name,
        images.train_images[train],
        images.train_labels[train],
        images.train_images[held_out],
        images.train_labels[held_out],
        flip=images.flip,
    )
    if halves.classes != images.classes:
        raise UserError(f"{images.name}: a class has too few training images to hold half out.")
    return halves
