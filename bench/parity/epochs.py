"""Whole epochs: `Search.run_epoch` beside authors' own function for an epoch, in float64.

Theirs is cut out of their script, unmodified but for what PyTorch has renamed since. Both get the
same images, weights and α; where something is drawn, both draw it from generators in one state.
Nothing is set equal between the steps.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.parity.harness import gap
from bench.parity.loops import SILENT, Meter, batch, stem
from darts import Search
from darts.data import Batch
from darts.training.search import Callback

STEPS = 2
"""An epoch's."""
RENAMED = {
    r"\basync=": "non_blocking=",
    r"\.data\[0\]": ".item()",
    r"clip_grad_norm\(": "clip_grad_norm_(",
}
METERS = SimpleNamespace(
    AvgrageMeter=Meter, AverageMeter=Meter, accuracy=lambda *_, **__: (torch.zeros(1),) * 2
)
"""Stands for their `utils`."""


def train_function(path: Path, name: str = "train", **globals_: Any) -> Any:
    """Their function for an epoch; `globals_` is what it asks for besides torch."""
    text = path.read_text()
    for old, new in RENAMED.items():
        text = re.sub(old, new, text)
    node = next(n for n in ast.parse(text).body if getattr(n, "name", None) == name)
    space: dict[str, Any] = {
        **{"torch": torch, "nn": nn, "F": F, "np": np, "math": math},
        **{
            "Variable": lambda x, **_: x,
            "utils": METERS,
            "logging": SILENT,
            "print": lambda *_: None,
        },
        **globals_,
    }
    exec(compile(ast.Module([node], []), str(path), "exec"), space)
    return space[name]


class Queue:
    """The weight batches of an epoch as an author's loop draws them; `arch` goes with the last.

    `done` is called after each of its steps.
    """

    def __init__(self, pairs: Sequence[tuple[Batch, Batch]], done: Callable[[], None]) -> None:
        self.pairs, self.done = pairs, done
        self.drawn = self.finished = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.end_step()
        if self.drawn == len(self.pairs):
            raise StopIteration
        self.drawn += 1
        return self.of(*self.pairs[self.drawn - 1])

    def end_step(self) -> None:
        """The step of the last batch is over."""
        if self.finished < self.drawn:
            self.finished = self.drawn
            self.done()

    def of(self, weight: Batch, arch: Batch) -> Any:
        """What the loop gets."""
        return weight

    @property
    def arch(self) -> Iterator[Any]:
        """Stands for their loader of arch batches: `next(iter(.))` is the one of this step."""
        return _Arch(self)


class _Arch:
    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.queue.pairs[self.queue.drawn - 1][1]


class Together(Queue):
    """Both batches of a step at once, as AutoDL-Projects has them."""

    def of(self, weight: Batch, arch: Batch) -> Any:
        """Images and labels of one, then of the other."""
        return [*weight, *arch]


class Images:
    """Stands for the search's own batches."""

    steps, position, drawn = STEPS, 0, 8 * STEPS

    def __init__(self, pairs: Callable[[int], Sequence[tuple[Batch, Batch]]]) -> None:
        self.pairs = pairs
        self.index = 0

    def epoch(self) -> Iterator[tuple[Batch, Batch]]:
        """The same images that theirs gets."""
        self.index += 1
        return iter(self.pairs(self.index - 1))


def pairs(epoch: int) -> list[tuple[Batch, Batch]]:
    """The batches of an epoch."""
    first = 2 * STEPS * epoch
    return [(batch(first + 2 * i), batch(first + 2 * i + 1)) for i in range(STEPS)]


def cosine(first: float, last: float, epoch: int, epochs: int) -> float:
    """What `CosineAnnealingLR` has in an epoch."""
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def compare(
    peer: nn.Module,
    alphas: Callable[[], Sequence[Tensor]],
    search: Search,
    train: Callable[[int, Queue], None],
    queue: type[Queue] = Queue,
    seed: Callable[[int], None] | None = None,
) -> list[tuple[float, ...]]:
    """Largest differences of α and the stem's ω and running variance after each step.

    Args:
        alphas: gives theirs, in the order of the search's parameters.
        train: theirs for the epoch of a number.
        seed: sets both sides' generators equal, before an epoch.
    """

    def ours() -> list[Tensor]:
        return [x.detach().clone() for x in (*search.method.parameters(), *stem(search.net))]

    def theirs() -> list[Tensor]:
        return [x.detach().clone() for x in (*alphas(), *stem(peer))]

    class Watch(Callback):
        def stepped(self, search: Search, step: int, steps: int) -> None:
            mine.append(ours())

    search.batches = Images(pairs)  # type: ignore[assignment]
    search.record = lambda losses: {}  # type: ignore[method-assign]
    search.callbacks = [Watch()]
    mine: list[list[Tensor]] = []
    others: list[list[Tensor]] = []
    while not search.finished:
        epoch = search.epoch
        if seed:
            seed(epoch)
        search.run_epoch()
        if seed:
            seed(epoch)
        loader = queue(pairs(epoch), lambda: others.append(theirs()))
        train(epoch, loader)
        loader.end_step()
    return [
        (
            max(gap(x, y) for x, y in zip(a[:-2], b[:-2], strict=True)),
            *(gap(x, y) for x, y in zip(a[-2:], b[-2:], strict=True)),
        )
        for a, b in zip(mine, others, strict=True)
    ]


def report(what: str, found: Sequence[tuple[float, ...]]) -> Iterator[tuple[str, float]]:
    """One line a quantity, with the first step that parts by more than 1e-6."""
    parted = next((i for i, row in enumerate(found) if max(row) > 1e-6), None)
    where = ""
    if parted is not None:
        epoch, step = divmod(parted, STEPS)
        where = f", parted at epoch {epoch} step {step}"
    epochs = len(found) // STEPS
    for name, column in zip(
        ("α", "ω of the stem", "its variance"), zip(*found, strict=True), strict=True
    ):
        yield f"{what}: {name} over {epochs} epochs{where}", max(column)
