"""What a skeleton says of itself, and the table of all of them.

A skeleton is the network around what is searched. Its entry is the one place that knows how many
cells or layers there are and how wide, what enters each, how an architecture is written, and how
the network that was found is built; a space names its skeleton, and everything else asks the entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from darts.networks.operations import OPERATIONS

KEPT_EDGES = 2
"""Incoming edges that a node of the DARTS space keeps."""
Edge = tuple[int, int]
"""(source node, target node)."""


class Choice(NamedTuple):
    """One edge of a discrete architecture."""

    operation: str
    source: int
    target: int


Cells = tuple[tuple[str, tuple[Choice, ...]], ...]
"""The choices of each cell type."""


class Place(NamedTuple):
    """Where a cell sits."""

    name: str
    """Its cell type."""
    inputs: tuple[int, ...]
    """Channels of the maps that enter."""
    channels: int
    """Channels of each of its nodes."""
    after_reduction: bool = False
    """The older of its two inputs has twice the resolution."""
    stride: int = 1
    """Of the operations that leave a single input, whose channels they may change."""


class LayerPlace(NamedTuple):
    """Where a layer of a chain sits."""

    number: int
    """Its number in the chain, from 0."""
    inputs: int
    """Channels that enter."""
    outputs: int
    """Channels that leave."""
    stride: int


class NodesPlace(NamedTuple):
    """Where a cell sits whose nodes carry the operations."""

    inputs: int
    """Channels of the map that enters."""
    channels: int
    """In a network those that leave, in the supernet those of each of its nodes."""


MakeCell = Callable[[Any], nn.Module]
"""Makes what is searched at a place of the skeleton's kind."""
Call = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]
"""Calls a cell, given the maps that enter it."""


def with_maps(cell: nn.Module, maps: tuple[Tensor, ...]) -> Tensor:
    """How a cell is called that takes nothing else."""
    out: Tensor = cell(*maps)
    return out


@dataclass(frozen=True)
class NetworkSizes:
    """Of a network: see `darts.build_network`."""

    channels: int
    cells: int
    classes: int
    colours: int = 3


@dataclass(frozen=True)
class Skeleton(ABC):
    """An entry of `SKELETONS`."""

    name: str
    """What spaces and genotypes call it."""
    stacked: ClassVar[bool] = False
    """One type of cell, the same in every place, with an operation on every edge: what
    NAS-Bench-201's published settings are for, and searches that train what they ask about."""
    leaves_edges_out: ClassVar[bool] = False
    """An architecture keeps two edges a node; otherwise every edge, which may be `none`."""
    chain: ClassVar[bool] = False
    """Layers one after another, each with an α of its own, and no cells."""
    nodes: ClassVar[bool] = False
    """One type of cell, whose nodes carry the operations and choose what they read."""
    additive: ClassVar[bool] = True
    """What an architecture costs is a sum over its edges, as budgets need it."""
    unit: ClassVar[str] = "cell"
    """What a cell type is the name of, in headings."""
    leading: ClassVar[tuple[str, ...]] = ()
    """The cell types that schedules look at; none named means all."""
    search_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of a search, as {"group.name": value}, that differ from the defaults."""
    short_settings: ClassVar[Mapping[str, Any]] = {}
    """Likewise of the evaluation's recipe "short"."""
    auxiliary_head: ClassVar[bool] = False
    """The network can have DARTS's auxiliary head."""
    large_images: ClassVar[bool] = False
    """The network can take images of ImageNet's size."""

    @property
    def without_edges(self) -> str:
        """Where no cell has operations on its edges, what there is: the end of a sentence."""
        return "is a chain of layers" if self.chain else "has them in nodes" if self.nodes else ""

    @abstractmethod
    def check(self, cells: Mapping[str, Sequence[Edge]]) -> None:
        """Raise ValueError unless a space may have these cell types with these edges."""

    def check_sizes(self, sizes: NetworkSizes) -> None:
        """Raise ValueError unless a network may have these sizes."""
        for name, value in asdict(sizes).items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")

    @abstractmethod
    def body(self, sizes: NetworkSizes, make_cell: MakeCell) -> nn.Module:
        """The skeleton with a cell of `make_cell` in each place.

        Called as ``body(images, call)``, where ``call`` calls a cell.
        """

    @abstractmethod
    def network(
        self, cells: Cells, sizes: NetworkSizes, *, auxiliary: bool, large: bool
    ) -> nn.Module:
        """The stand-alone network of an architecture; see `darts.build_network`."""

    @abstractmethod
    def write(self, cells: Cells) -> str:
        """The text of an architecture."""

    @abstractmethod
    def reads(self, text: str) -> bool:
        """Whether a text is meant to be one of `write`."""

    @abstractmethod
    def read(self, text: str) -> Cells:
        """The architecture of a text that it `reads`; ValueError where it is none."""


SKELETONS: dict[str, Skeleton] = {}
"""Every skeleton by name."""
S = TypeVar("S", bound=Skeleton)


def enter(skeleton: S) -> S:
    """Put a skeleton into `SKELETONS`, in place of one of its name."""
    SKELETONS[skeleton.name] = skeleton
    return skeleton


def names_with(feature: str) -> str:
    """Names of the skeletons that have an auxiliary head, say, for a sentence."""
    return ", ".join(sorted(s.name for s in SKELETONS.values() if getattr(s, feature)))


def require_names(skeleton: Skeleton, cells: Iterable[str], names: list[str]) -> None:
    """Raise ValueError unless a space has exactly these cell types."""
    if sorted(cells) != names:
        raise ValueError(f"cells {sorted(cells)} must be {names} for {skeleton.name!r}")


def require(text: str, condition: bool, complaint: str) -> None:
    """Raise ValueError unless a genotype's text meets a condition."""
    if not condition:
        raise ValueError(f"genotype {text!r} {complaint}")


def check_operations(
    text: str, choices: Iterable[Choice], known: Mapping[str, Any] = OPERATIONS
) -> None:
    """Raise ValueError where a genotype's text names an operation that there is not."""
    for choice in choices:
        if choice.operation not in known:
            raise ValueError(
                f"genotype {text!r}: operation {choice.operation!r} is not one of "
                f"{', '.join(known)}"
            )
