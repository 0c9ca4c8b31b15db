"""A step as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from darts.devices import parallel

Tensors = Sequence[Tensor]
WARM_UP = 3
"""Steps before the recording, in which optimisers and libraries allocate what they keep."""


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, device: str) -> None:
    """In place, in a tensor on ``device``, so that a captured step sees it."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], device=device).fill_(rate)


def captures(device: torch.device) -> bool:
    """Whether steps on ``device`` are recorded: on a GPU, in one process."""
    return device.type == "cuda" and parallel.world() == 1


class CapturedStep:
    """``step(*inputs) -> tensors``, on CUDA recorded once and then replayed as one launch.

    The first ``WARM_UP`` calls just run. What ``step`` reads besides ``inputs`` (parameters,
    temperature, learning rate) must stay where it is and change in place: an optimiser needs
    ``fused=True``, Adam ``capturable=True`` too, and a rate that changes is a device tensor. Inputs
    of another shape than the recorded ones, and where nothing `captures`, run the step itself.

    ``generator``: draws made in the step besides those of the device's default generator.
    """

    def __init__(
        self, step: Callable[..., Tensors], generator: torch.Generator | None = None
    ) -> None:
        self._step = step
        self._generator = generator
        self._calls = 0
        self._side: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: Tensors = ()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the step on ``inputs``."""
        if not captures(inputs[0].device):
            return list(self._step(*inputs))
        device = inputs[0].device
        with torch.cuda.device(device):  # a graph belongs to the current one
            return self._on_device(inputs, device)

    def _on_device(self, inputs: Tensors, device: torch.device) -> list[Tensor]:
        # One for the warm-up and the recording: what a stream has freed, only that stream allocates
        # again, and the one that PyTorch would record on is on whichever device was the first.
        side = self._side = self._side or torch.cuda.Stream(device)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._warm_up(inputs, side, torch.cuda.current_stream(device))
        if self._graph is None:
            self._record(inputs, side)
        if any(a.shape != b.shape for a, b in zip(self._inputs, inputs, strict=True)):
            return list(self._step(*inputs))
        for recorded, x in zip(self._inputs, inputs, strict=True):
            recorded.copy_(x, non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return [x.clone() for x in self._outputs]  # the next replay overwrites them

    def _warm_up(
        self, inputs: Tensors, side: torch.cuda.Stream, current: torch.cuda.Stream
    ) -> list[Tensor]:
        side.wait_stream(current)
        with torch.cuda.stream(side), warnings.catch_warnings():
            # Adam cannot know that the recording is yet to come.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            outputs = list(self._step(*inputs))
        current.wait_stream(side)
        return outputs

    def _record(self, inputs: Tensors, side: torch.cuda.Stream) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            self._graph.register_generator_state(self._generator)
        with torch.cuda.graph(self._graph, stream=side):
            self._outputs = self._step(*self._inputs)
