"""What the tests of methods share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.data import Batch, ImageSet
from darts.methods import Step, get_method
from darts.recipes import configure
from darts.spaces import Space, get_space
from darts.supernet.step import Outcome
from darts.training.held_out import BatchLoss
from darts.training.search import Callback, Search

Pair = tuple[Tensor, Tensor]


def make(name: str, *, space: str = "nb201", **overrides: Any) -> Any:
    return get_method(name)(get_space(space), configure(method=name, space=space, **overrides))


def set_logits(method: Any, value: Tensor, cell: str = "cell") -> None:
    with torch.no_grad():
        method.logits[cell].copy_(value)


def ranked(edges: int = 6, operations: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(edges, operations, generator=generator)


class LinearLoss:
    """A loss that is linear in β, so that its gradient in β is known."""

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients
        self.outcome = None
        self.skipped = False

    def __call__(self, weights: Any, *, skip: bool = False) -> Tensor:
        self.skipped = skip
        value: Tensor = (weights["cell"] * self.coefficients).sum()
        return value


def some_batch() -> Pair:
    """Eight random images with labels."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 10


def arch_gradients(
    net: Any, batch: Pair, space: Space, alphas: dict[str, Tensor]
) -> tuple[list[Tensor], Outcome]:
    """Those of a search's arch step with plain softmax, one for each of `alphas`; its outcome."""
    method = make("darts-v1", space=space.name)
    method.logits = alphas
    method.temperature = torch.ones((), device=batch[0].device)
    images = Batch(*batch)
    loss = BatchLoss(net, images, None)
    sgd = torch.optim.SGD(net.parameters())
    gradients = method.arch_gradients(Step(net, images, images, loss, loss, sgd))
    assert loss.outcome is not None
    return gradients, loss.outcome


def check_goes_on(images: ImageSet, prepared: Callable[..., Search], folder: Path) -> None:
    """A search of `prepared` that is interrupted in its second epoch ends as one that is not."""

    class Stop(Callback):
        def stepped(self, search: Search, step: int, steps: int) -> None:
            if search.epoch == 1:
                raise KeyboardInterrupt

    settings = {"checkpoint_minutes": 1e-9, "epochs": 2}
    once = prepared(**settings)
    expected = once.run().genotype
    interrupted = prepared(**settings, out=str(folder / "run"))
    interrupted.callbacks.append(Stop())
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = Search(interrupted.config, images=images, resume=True)
    assert resumed.run().genotype == expected
    for p, q in zip(once.method.parameters(), resumed.method.parameters(), strict=True):
        assert torch.equal(p, q)
