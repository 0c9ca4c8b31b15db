"""Whole loops: authors' own steps beside the search's, from one state, in float64.

What is theirs is cut out of their scripts unmodified: the function that makes the steps, and the
constants and the rule of the temperature. Nothing is set equal between the steps.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.parity.harness import gap
from darts import Search, configure
from darts.data import Batch, load

EPOCHS = 50


@dataclass(frozen=True)
class Script:
    """What is taken from one script."""

    steps: Any
    """Its function of that name, which makes the steps of an epoch."""
    constants: CodeType
    """What it sets before the loop over epochs."""
    rule: CodeType
    """The first decision in an epoch: the temperature."""


def read(path: Path, steps: str, live: str = "", **globals_: Any) -> Script:
    """Cut a script up, with `live`, a line that is commented out in it, made live.

    `globals_`: what the function asks for besides torch and math.
    """
    text = path.read_text()
    if live:
        assert text.count(live) == 1, f"{path.name} has no line {live}"
        text = text.replace(live, live[1:]).replace(
            "#alphas_smooth.backward(outgrad)", "alphas_smooth.backward(outgrad)"
        )
    functions = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    body = functions["main"].body
    epochs = next(n for n in body if isinstance(n, ast.For))
    rule: list[ast.stmt] = [next(n for n in epochs.body if isinstance(n, ast.If))]
    before = body[: body.index(epochs)]
    first = next(i for i, n in enumerate(before) if ast.unparse(n).startswith("warmup ="))
    first = min(
        first,
        next(i for i, n in enumerate(before) if ast.unparse(n).startswith("softmax_temp =")),
    )
    space: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "math": math, **globals_}

    def code(part: list[ast.stmt]) -> CodeType:
        return compile(ast.Module(part, []), str(path), "exec")

    exec(code([functions[steps]]), space)
    return Script(space[steps], code(before[first:]), code(rule))


def entropy(p: Any, axis: int) -> Any:
    """As scipy.stats.entropy."""
    return -torch.xlogy(torch.from_numpy(p), torch.from_numpy(p)).sum(axis).numpy()


class Meter:
    """Stands for their AverageMeter."""

    avg = val = 0.0

    def update(self, *_: Any) -> None:
        """Count nothing."""


SILENT = SimpleNamespace(log=lambda *_: None, info=lambda *_: None)


def batch(seed: int) -> Batch:
    """Eight random images with labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    return Batch(images, torch.randint(10, (8,), generator=generator))


def search_like(
    theirs: Sequence[Tensor], order: Sequence[str], alphas: Sequence[Tensor], **settings: Any
) -> Search:
    """A search whose network has `theirs`, named by parts of a conventional network's names."""
    base: dict[str, Any] = {"epochs": EPOCHS, "data": {"source": "digits", "batch_size": 8}}
    search = Search(
        configure(**base | settings),
        images=load("digits"),
    )
    views = {n: v for n, v in search.net.conventional_views().items() if "running" not in n}
    names = [n for part in order for n in views if part in n]
    with torch.no_grad():
        for name, tensor in zip(names, theirs, strict=True):
            views[name].copy_(tensor)
        for a, b in zip(search.method.parameters(), alphas, strict=True):
            a.copy_(b)
    search.net.train()
    return search


def stem(net: nn.Module) -> tuple[Tensor, Tensor]:
    """The stem's weight and running variance, which every gradient and every forward reaches."""
    state = net.state_dict()
    weight = next(v for n, v in state.items() if n.endswith("stem.0.weight"))
    return weight, next(v for n, v in state.items() if n.endswith("stem.1.running_var"))


Step = Callable[[Batch, Batch, dict[str, Any]], None]
"""Their step on a weight and an arch batch, with the state of their main function."""


def walk(
    script: Script,
    step: Step,
    peer: nn.Module,
    alphas: Sequence[Tensor],
    search: Search,
    steps: int,
    **state: Any,
) -> Iterator[tuple[float, ...]]:
    """Largest differences of t, α and the stem's ω and running variance after each step."""
    state |= {"torch": torch, "math": math, "F": F, "entropy": entropy, "logging": SILENT}
    exec(script.constants, state)
    for epoch in range(EPOCHS):
        state["epoch"] = epoch
        exec(script.rule, state)
        search.method.begin_epoch(epoch)
        of_t = abs(float(search.method.temperature) / state["new_temp"] - 1)
        for i in range(steps):
            pair = [batch(2 * (steps * epoch + i) + half) for half in range(2)]
            step(pair[0], pair[1], state)
            search.step(pair[0], pair[1])
            ours = search.method.logits.values()
            yield (
                of_t,
                max(gap(a, b) for a, b in zip(ours, alphas, strict=True)),
                *(gap(a, b) for a, b in zip(stem(search.net), stem(peer), strict=True)),
            )


def report(what: str, found: Sequence[tuple[float, ...]]) -> Iterator[tuple[str, float]]:
    """One line a quantity, with the first step that parts by more than 1e-6."""
    parted = next((i for i, row in enumerate(found) if max(row) > 1e-6), None)
    where = ""
    if parted is not None:
        epoch, step = divmod(parted, len(found) // EPOCHS)
        where = f", parted at epoch {epoch} step {step}"
    names = "t", "α", "ω of the stem", "its running variance"
    for name, column in zip(names, zip(*found, strict=True), strict=True):
        yield f"{what}: {name} over {EPOCHS} epochs{where}", max(column)
