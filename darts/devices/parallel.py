"""Data-parallel runs: processes that `torchrun` starts share out every batch.

The result does not depend on the number of processes, but for rounding, because

- every process draws the order, the augmentation and all other random numbers of the whole batch,
  and takes its rows of them (`own`);
- batch statistics are those of the whole batch (`darts.normalization`);
- what all processes hold alike (β, ω) enters the network through `shared`, or has its gradient
  averaged by `average_`, and the loss is the mean over the processes (`average`).

So α, ω and every decision stay the same everywhere, and the first process alone writes. Collective
functions must be called by all processes in the same order. With one process they do nothing.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from darts.errors import UserError

T = TypeVar("T")
_rank, _world = 0, 1
_alone = False


def join(device: str) -> None:
    """Become one of the processes that `torchrun` has started; call it before anything else here.

    Args:
        device: "cpu", or "cuda", which becomes the GPU of the process's local rank.

    Raises:
        UserError: a GPU is named by its number, or the machine has fewer GPUs than processes.
    """
    global _rank, _world
    processes = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if not dist.is_initialized():
        if processes == 1:
            return
        asked = torch.device(device)
        if asked.type == "cuda":
            _take_gpu(asked)
        # Its default arguments hold the group that there is when it is imported, whose threads
        # then outlive its end; one that lets go of a tensor while Python ends aborts.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("cpu:gloo,cuda:nccl" if asked.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    _rank, _world = dist.get_rank(), dist.get_world_size()


def _take_gpu(asked: torch.device) -> None:
    if asked.index is not None:
        raise UserError(
            f"device={str(asked)!r} is one GPU, but each of the {os.environ['WORLD_SIZE']} "
            "processes needs its own: say cuda."
        )
    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if gpus < here:
        raise UserError(f"{here} processes on this machine need as many GPUs, but it has {gpus}.")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def rank() -> int:
    """Number of this process, from 0."""
    return 0 if _alone else _rank


def world() -> int:
    """How many processes share out a batch."""
    return 1 if _alone else _world


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works on its own, as if there were no other."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def own(drawn: Tensor) -> Tensor:
    """This process's rows of something drawn for a whole batch: every `world`-th from `rank`."""
    return drawn[rank() :: world()] if world() > 1 else drawn


# ---- collective ----


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x) / world()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        averaged: Tensor = _Average.apply(grad)
        return averaged


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        flat = average(torch.cat([g.reshape(-1) for g in grads]))
        parts = flat.split([g.numel() for g in grads])
        return tuple(part.view(g.shape) for part, g in zip(parts, grads, strict=True))


def total(x: Tensor) -> Tensor:
    """Sum over the processes, without a gradient."""
    if world() == 1:
        return x
    reduced = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(reduced)
    return reduced


def gathered(x: Tensor) -> Tensor:
    """Every process's x, [world, ...], without a gradient."""
    if world() == 1:
        return x[None]
    every = x.new_empty(world(), *x.shape)
    dist.all_gather(list(every.unbind()), x.contiguous())
    return every


def average(x: Tensor) -> Tensor:
    """Mean over the processes; differentiable as often as one likes."""
    if world() == 1:
        return x
    averaged: Tensor = _Average.apply(x)
    return averaged


def shared(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, which all processes hold alike; their gradient is the mean over the processes.

    One collective call for all of them, when the backward pass has reached the last.
    """
    if world() == 1 or not tensors:
        return list(tensors)
    return list(_Shared.apply(*tensors))


@torch.no_grad()
def average_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one collective call."""
    if world() == 1:
        return
    flat = average(torch.cat([t.reshape(-1) for t in tensors]))
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(part.view(t.shape))


def greatest(values: Sequence[int]) -> list[int]:
    """The greatest of each value over the processes; waits for no device."""
    if world() == 1:
        return list(values)
    reduced = torch.tensor(values)
    dist.all_reduce(reduced, dist.ReduceOp.MAX)
    found: list[int] = reduced.tolist()
    return found


def from_first(make: Callable[[], T]) -> T:
    """What `make()` gives on the first process, which alone calls it, on all.

    Raises:
        UserError: on all processes, where `make()` raises it.
    """
    if world() == 1:
        return make()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [make()]
        except UserError as error:
            box = [error]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    if isinstance(box[0], UserError):
        raise box[0]
    made: T = box[0]
    return made


def first_then_others(make: Callable[[], T]) -> T:
    """`make()` on the first process, which may leave files behind, then on the others.

    Raises:
        UserError: on all processes, where `make()` raises it on the first.
    """
    made: list[T] = []
    from_first(lambda: made.append(make()))
    return made[0] if made else make()
