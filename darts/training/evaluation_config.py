"""Settings of an evaluation, the field's recipes for them, and which architecture is meant."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from typing_extensions import Unpack

from darts.budgets.costs import Sizes
from darts.config import (
    BudgetConfig,
    ConfigError,
    ImageConfig,
    Precision,
    build,
    merge,
    nearest,
    nested,
    setting,
)
from darts.errors import UserError
from darts.keywords import EvaluationKeywords
from darts.networks.genotype import Genotype
from darts.networks.table import SKELETONS, NetworkSizes, Skeleton, names_with
from darts.results.run_folder import RunFolder
from darts.spaces import Space, get_space


@dataclass(frozen=True)
class NetworkConfig:
    """The stand-alone network."""

    channels: int = setting(16, "channels of the first cell", at_least=1)
    cells: int = setting(1, "cells a stage, or in all (the spaces of DARTS)", at_least=1)
    auxiliary: float = setting(0.0, "weight of the auxiliary head's loss; 0 = no head", at_least=0)
    drop_path: float = setting(
        0.0, "probability at the last epoch of dropping an operation, rising from 0", at_least=0
    )
    precision: Precision = setting("float32", "arithmetic of the feature maps")
    adapt: str = setting(
        "", "MODULE:FUNCTION that changes the network before it trains: its stem, head or criterion"
    )


@dataclass(frozen=True)
class TrainingConfig:
    """SGD with a falling learning rate."""

    epochs: int = setting(10, "epochs", at_least=1)
    learning_rate: float = setting(0.05, "learning rate at the start", above=0)
    schedule: Literal["cosine", "linear"] = setting("cosine", "how the learning rate falls to 0")
    warmup: int = setting(0, "epochs in which the learning rate rises from 0", at_least=0)
    momentum: float = setting(0.9, "momentum", at_least=0, at_most=1)
    nesterov: bool = setting(True, "Nesterov's form of momentum")
    weight_decay: float = setting(5e-4, "L2 penalty", at_least=0)
    clip: float = setting(5.0, "largest gradient norm; 0 = unlimited", at_least=0)
    label_smoothing: float = setting(0.0, "label smoothing", at_least=0, at_most=1)


@dataclass(frozen=True)
class EvaluationConfig:
    """Everything that decides an evaluation."""

    genotype: str = setting("", "architecture (official text), or a file or run folder with it")
    recipe: str = setting("short", "named bundle of settings: short, nb201, darts, imagenet")
    seed: int = setting(0, "seed of the first training", at_least=0)
    seeds: int = setting(1, "trainings, with seeds seed, seed + 1, ...", at_least=1)
    device: str = setting("cpu", "device of the training, such as cpu or cuda:0")
    out: str = setting("", "run folder; empty = nothing is written")
    workers: int = setting(4, "processes that decode images (imagenet)", at_least=0)
    checkpoint_minutes: float = setting(10.0, "longest time between two checkpoints", above=0)
    data: ImageConfig = field(default_factory=ImageConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


RECIPES: dict[str, dict[str, Any]] = {
    # A few minutes on a CPU: tells networks apart on a small set, and is no number for a table.
    "short": {},
    # Dong & Yang, ICLR 2020, section 2.2: the training behind the benchmark's 200-epoch numbers.
    "nb201": {
        "network.channels": 16,
        "network.cells": 5,
        "training.epochs": 200,
        "training.learning_rate": 0.1,
        "training.clip": 0.0,
        "data.batch_size": 256,
    },
    # Liu et al., ICLR 2019, section 3.3 and appendix A.2.
    "darts": {
        "network.channels": 36,
        "network.cells": 20,
        "network.auxiliary": 0.4,
        "network.drop_path": 0.2,
        "training.epochs": 600,
        "training.learning_rate": 0.025,
        "training.nesterov": False,
        "training.weight_decay": 3e-4,
        "data.batch_size": 96,
        "data.cutout": 16,
    },
    # The transfer as PC-DARTS (Xu et al., ICLR 2020, section 4.3) and those after it train it.
    "imagenet": {
        "data.source": "imagenet",
        "data.batch_size": 1024,
        "network.channels": 48,
        "network.cells": 14,
        "network.auxiliary": 0.4,
        "training.epochs": 250,
        "training.learning_rate": 0.5,
        "training.schedule": "linear",
        "training.warmup": 5,
        "training.nesterov": False,
        "training.weight_decay": 3e-5,
        "training.label_smoothing": 0.1,
    },
}
"""Settings of each recipe that differ from the defaults, as {"group.name": value}."""


def configure_evaluation(**overrides: Unpack[EvaluationKeywords]) -> EvaluationConfig:
    """The whole configuration: defaults, the recipe's settings, overrides.

    Args:
        overrides: fields of `EvaluationConfig`; groups as mappings.

    Raises:
        ConfigError: an unknown name or an impossible value.
        UserError: the genotype is malformed or does not fit the recipe.
    """
    asked = build(EvaluationConfig, overrides)
    if asked.recipe not in RECIPES:
        raise ConfigError(f"recipe {asked.recipe!r} is unknown{nearest(asked.recipe, RECIPES)}")
    genotype = parse(asked.genotype)
    layers = nested(RECIPES[asked.recipe])
    skeleton = SKELETONS[genotype.skeleton]
    if asked.recipe == "short":
        layers = nested(skeleton.short_settings)
    # Its text in place of a path: a run folder must mean the same wherever it is moved to.
    config = build(EvaluationConfig, merge(layers, overrides, {"genotype": str(genotype)}))
    _check_sizes(skeleton, config.network.channels, config.network.cells, "network.")
    for path, is_asked, feature in (
        ("network.auxiliary", config.network.auxiliary > 0, "auxiliary_head"),
        ("data.source=imagenet", config.data.source == "imagenet", "large_images"),
    ):
        if is_asked and not getattr(skeleton, feature):
            raise ConfigError(
                f"{path} needs a genotype of {names_with(feature)}, not of {skeleton.name}"
            )
    return config


def _check_sizes(skeleton: Skeleton, channels: int, cells: int, where: str = "") -> None:
    try:
        skeleton.check_sizes(NetworkSizes(channels, cells, 1))
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from error


def bounded_sizes(
    space: Space, budget: BudgetConfig, classes: int, shape: tuple[int, int, int]
) -> Sizes:
    """Sizes of the network that a budget is about: those that `evaluate` takes where none are
    asked for."""
    some = space.derive({name: torch.ones(cell.shape) for name, cell in space.cells.items()})
    usual = configure_evaluation(genotype=str(some)).network
    if not space.around.additive:
        raise ConfigError(
            f"budgets and latencies are sums over edges, and in space={space.name} what one choice "
            "costs depends on others; take another space"
        )
    channels, cells = budget.channels or usual.channels, budget.cells or usual.cells
    _check_sizes(space.around, channels, cells)
    return Sizes(channels, cells, classes, shape)


def parse(text: str) -> Genotype:
    """A genotype from its text, from a file that holds it, or from a run folder.

    Raises:
        UserError: it is none of these.
    """
    meant = "|" in text or "(" in text or any(s.reads(text.strip()) for s in SKELETONS.values())
    path = Path(text) if text and not meant else None
    if path and path.is_dir():
        # A module of the user's may register operations; without it other genotypes are readable.
        with suppress(UserError):
            get_space(str(RunFolder.open(path).config.get("space")))
        path = path / "genotype.txt"
    if path and not path.is_file():
        raise UserError(f"genotype={text!r} is neither an architecture nor a file that holds one.")
    try:
        return Genotype.parse(path.read_text(encoding="utf-8") if path else text)
    except ValueError as error:
        raise UserError(str(error)) from error
