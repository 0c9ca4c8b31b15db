"""Steps of conventional supernets, to compare this project's with.

One has a module per operation, as tests/reference builds it; the other is that of an unmodified
checkout of AutoDL-Projects (github.com/D-X-Y/AutoDL-Projects), run with its own step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts.devices.capture import CapturedStep
from darts.spaces import Space
from darts.supernet.step import Batch
from tests.reference.supernet import ReferenceSupernet

Step = Callable[[], object]
CLASSES = 10
VALIDATION_BATCH = 512
"""Of AutoDL-Projects, in its configuration of weight-sharing searches."""


@dataclass(frozen=True)
class Size:
    """Of a supernet and its batches of 3x32x32 images, and the device they lie on."""

    channels: int = 16
    cells: int = 1
    batch: int = 64
    device: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether that is a GPU."""
        return torch.device(self.device).type == "cuda"


def batches(size: Size) -> tuple[Batch, Batch]:
    """Random training and validation images and labels."""
    torch.manual_seed(0)

    def one() -> Batch:
        with torch.device(size.device):
            return torch.randn(size.batch, 3, 32, 32), torch.randint(CLASSES, (size.batch,))

    return one(), one()


def optimizers(
    weights: list[nn.Parameter], alphas: list[Tensor], *, captured: bool = False
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Those of the usual NAS-Bench-201 recipe; in a graph fused, and Adam's steps on the GPU."""
    fused = captured or None
    on_gpu = captured and alphas[0].is_cuda
    return (
        torch.optim.SGD(
            weights, 0.025, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=fused
        ),
        torch.optim.Adam(
            alphas, 3e-4, betas=(0.5, 0.999), weight_decay=1e-3, fused=fused, capturable=on_gpu
        ),
    )


def new_alphas(space: Space, device: str) -> dict[str, Tensor]:
    """α as DARTS initialises it."""
    return {
        name: (1e-3 * torch.randn(cell.shape, device=device)).requires_grad_()
        for name, cell in space.cells.items()
    }


def conventional_step(
    space: Space,
    size: Size,
    precision: torch.dtype | None = None,
    *,
    tuned: bool = False,
    compiled: bool = False,
) -> Step:
    """One module per operation, ``backward()`` through everything.

    ``tuned``: channels last, with fused optimisers, on a GPU as one CUDA graph. ``compiled`` by
    torch.compile: with both the strongest that a user could build of public parts.
    """
    train, validation = batches(size)
    net = ReferenceSupernet(space, size.channels, size.cells, CLASSES).to(size.device)
    if tuned:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    alphas = new_alphas(space, size.device)
    sgd, adam = optimizers(list(net.parameters()), list(alphas.values()), captured=tuned)

    def loss_of(images: Tensor, labels: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast(images.device.type, precision, precision is not None):
            return F.cross_entropy(net(images, weights), labels)

    loss_function = torch.compile(loss_of) if compiled else loss_of

    def step(*parts: Tensor) -> list[Tensor]:
        losses = []
        for (images, labels), optimizer in ((parts[:2], sgd), (parts[2:], adam)):
            sgd.zero_grad()
            adam.zero_grad()
            weights = {name: a.softmax(-1) for name, a in alphas.items()}
            loss = loss_function(images, labels, weights)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    if tuned:
        last = torch.channels_last
        train, validation = ((x.to(memory_format=last), y) for x, y in (train, validation))
    run = CapturedStep(step) if tuned else step
    return lambda: run(*train, *validation)


@dataclass
class Peer:
    """What AutoDL-Projects' DARTS (first order) does: the loops of its exps/NATS-algos."""

    step: Step
    """One bilevel step."""
    validation: Step
    """One of the batches of `VALIDATION_BATCH` that the supernet is validated on each epoch."""


def peer(path: Path, size: Size) -> Peer:
    """AutoDL-Projects' supernet from a checkout of it, and its optimisers."""
    sys.path.insert(0, str(path))
    from xautodl.models.cell_operations import NAS_BENCH_201  # type: ignore[import-not-found]
    from xautodl.models.cell_searchs.generic_model import (  # type: ignore[import-not-found]
        GenericNAS201Model,
    )
    from xautodl.utils.evaluation_utils import obtain_accuracy  # type: ignore[import-not-found]

    train, validation = batches(size)
    network = GenericNAS201Model(
        size.channels, size.cells, 4, CLASSES, NAS_BENCH_201, affine=False, track_running_stats=True
    ).to(size.device)
    network.set_algo("darts-v1")
    criterion = nn.CrossEntropyLoss()
    sgd, adam = optimizers(network.weights, network.alphas)

    def step() -> None:
        for (images, labels), optimizer in ((train, sgd), (validation, adam)):
            network.set_cal_mode("joint", None)
            network.zero_grad()
            _, logits = network(images)
            loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            obtain_accuracy(logits.data, labels.data, topk=(1,))  # its top 5 fails on this torch
            loss.item()

    images, labels = batches(replace(size, batch=VALIDATION_BATCH))[0]

    @torch.no_grad()
    def validate() -> None:
        network.eval()
        _, logits = network(images)
        criterion(logits, labels).item()
        obtain_accuracy(logits.data, labels.data, topk=(1,))
        network.train()

    return Peer(step, validate)
