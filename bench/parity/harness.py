"""What the comparisons share: importing checkouts, small inputs, the table of comparisons."""

from __future__ import annotations

import ast
import math
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darts import configure, get_space
from darts.methods import get_method

CHECKS: dict[str, tuple[str, Callable[[Path], Iterator[tuple[str, float]]]]] = {}
"""Method → (checkout, comparison)."""


def against(checkout: str, method: str) -> Callable[[Any], Any]:
    """Enter a comparison under the method's name."""

    def enter(check: Any) -> Any:
        CHECKS[method] = (checkout, check)
        return check

    return enter


@contextmanager
def importing(*folders: Path) -> Iterator[None]:
    """Make the folders' modules importable, and forget them afterwards."""
    before, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - modules:
            if not name.startswith(("torch", "numpy", "darts", "snsoftmax")):
                del sys.modules[name]


@contextmanager
def double_precision() -> Iterator[None]:
    """Everything that is made inside is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def definitions(path: Path, *names: str, **globals_: Any) -> types.SimpleNamespace:
    """Functions and classes of a script that cannot be imported as a whole."""
    tree = ast.parse(path.read_text().replace("async=", "non_blocking="))  # a keyword since 3.7
    wanted = [node for node in tree.body if getattr(node, "name", None) in names]
    space: dict[str, Any] = {"torch": torch, "np": np, "F": F, "math": math, **globals_}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in names})


def definitions_of_method(path: Path, cls: str, name: str) -> Any:
    """One method of a class as a function."""
    tree = ast.parse(path.read_text())
    body = next(n for n in tree.body if getattr(n, "name", None) == cls).body  # type: ignore[attr-defined]
    function = next(n for n in body if getattr(n, "name", None) == name)
    space: dict[str, Any] = {"torch": torch, "F": F, "np": np, "math": math}
    exec(compile(ast.Module([function], []), str(path), "exec"), space)
    return space[name]


def gap(a: Tensor | float, b: Tensor | float) -> float:
    """Largest absolute difference."""
    a, b = (x.detach() if isinstance(x, Tensor) else torch.tensor(x) for x in (a, b))
    return float((a - b).abs().max())


def make(name: str, space: str = "nb201", **overrides: Any) -> Any:
    """A method with its published settings."""
    return get_method(name)(get_space(space), configure(method=name, space=space, **overrides))


def some_alpha(edges: int = 6, operations: int = 5) -> Tensor:
    """Logits of the size that they have late in a search."""
    return 0.5 * torch.randn(edges, operations, generator=torch.Generator().manual_seed(1))


def linear_step(coefficients: Tensor) -> Any:
    """A step whose loss is linear in β with known coefficients."""

    def loss(weights: Any, *, skip: bool = False) -> Tensor:
        value: Tensor = sum((b * coefficients).sum() for b in weights.values())  # type: ignore[assignment]
        return value

    return SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=loss)


def pair(seed: int) -> tuple[Tensor, Tensor]:
    """Four random images with labels."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 16, 16, generator=g, dtype=torch.float64)
    return images, torch.randint(10, (4,), generator=g)


def on_double(method: Any, alpha: Tensor) -> Any:
    """The method with α in float64."""
    method.logits = {"cell": alpha.double().requires_grad_()}
    method.optimizer = method.make_optimizer()
    return method
