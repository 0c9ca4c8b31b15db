"""A step as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor]
WARM_UP = 3
"""Runs before the capture, in which optimisers and libraries allocate what they keep."""


class CapturedStep:
    """``step(*inputs) -> tensors``, on CUDA recorded once and replayed as one launch.

    Shapes must not change. On CUDA what ``step`` reads besides ``inputs`` (parameters,
    temperature, learning rate) must stay where it is and be changed in place: an optimiser needs
    ``capturable=True`` or ``fused=True`` and its rate in a device tensor. What is returned is
    overwritten by the next call. On other devices the step is simply called.
    """

    def __init__(self, step: Callable[..., Tensors], inputs: Tensors) -> None:
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        if inputs[0].device.type != "cuda":
            return
        self._inputs = [x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = step(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Run the step on ``inputs``; raises ValueError where a shape is not the recorded one."""
        if self._graph is None:
            return self._step(*inputs)
        for recorded, x in zip(self._inputs, inputs, strict=True):
            if recorded.shape != x.shape:
                raise ValueError(
                    f"inputs: shape {tuple(x.shape)} is not the recorded {tuple(recorded.shape)}"
                )
            recorded.copy_(x, non_blocking=True)
        self._graph.replay()
        return self._outputs
