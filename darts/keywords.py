"""The settings of a search as keywords, so that an editor completes them and mypy checks them.

The same names and types as the dataclasses of `darts.config`, none of them required; a test holds
the two to each other. What a value means, and which are allowed, stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from darts.config import Precision
from darts.methods import Method
from darts.spaces import Space


class ImageKeywords(TypedDict, total=False):
    """Keywords of `ImageConfig`."""

    source: str
    side: int
    root: str
    download: bool
    augment: bool
    loss: str | Callable[..., Any]
    class_weights: str
    batch_size: int
    cutout: int


class DataKeywords(ImageKeywords, total=False):
    """Keywords of `DataConfig`."""

    split: str
    stratified: bool
    keep_last: bool
    replacement: bool


class SupernetKeywords(TypedDict, total=False):
    """Keywords of `SupernetConfig`."""

    channels: int
    cells: int
    precision: Precision
    adapt: str
    zero_skip: bool
    own_convolutions: bool


class WeightKeywords(TypedDict, total=False):
    """Keywords of `WeightConfig`."""

    learning_rate: float
    final_learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    clip: float


class ArchKeywords(TypedDict, total=False):
    """Keywords of `ArchConfig`."""

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    clip: float
    initial_scale: float
    first: bool
    warmup: int


class BudgetKeywords(TypedDict, total=False):
    """Keywords of `BudgetConfig`."""

    params: float
    macs: float
    latency: float
    table: str
    device: str
    channels: int
    cells: int


class SearchKeywords(TypedDict, total=False):
    """Keywords of `SearchConfig`; a method and a space may be given themselves."""

    method: str | type[Method]
    space: str | Space
    recipe: str
    epochs: int
    seed: int
    device: str
    out: str
    checkpoint_minutes: float
    nb201: str
    data: DataKeywords
    supernet: SupernetKeywords
    weights: WeightKeywords
    arch: ArchKeywords
    budget: BudgetKeywords
    options: Mapping[str, Any]


class NetworkKeywords(TypedDict, total=False):
    """Keywords of `NetworkConfig`."""

    channels: int
    cells: int
    auxiliary: float
    drop_path: float
    precision: Precision
    adapt: str


class TrainingKeywords(TypedDict, total=False):
    """Keywords of `TrainingConfig`."""

    epochs: int
    learning_rate: float
    schedule: Literal["cosine", "linear"]
    warmup: int
    momentum: float
    nesterov: bool
    weight_decay: float
    clip: float
    label_smoothing: float


class EvaluationKeywords(TypedDict, total=False):
    """Keywords of `EvaluationConfig`."""

    genotype: str
    recipe: str
    seed: int
    seeds: int
    device: str
    out: str
    workers: int
    checkpoint_minutes: float
    data: ImageKeywords
    network: NetworkKeywords
    training: TrainingKeywords
