"""The weighted sum at a node: out = Σ_k w_k·batchnorm(y_k) + Σ_l w_l·x_l, and its gradient.

The maps that a node sums are shared: an identity or a pooled map is read by several nodes, and the
convolutions of several edges are channel slices of one map. Left to autograd, every reader would
produce a gradient of its own, to be padded and added. Instead the readers of a map write into one
`SharedGradient`, and the last of them hands it on; the gradient of a node's own map and of its
average is never written at all, but made from its readers' by the node (`HandedGradients`), and so
is that of a convolution that one node alone reads (`NormalizedGradient`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import snsoftmax  # noqa: F401  (registers the operators)
from darts.devices import parallel
from darts.networks.normalization import EPS, MOMENTUM, composed, mixture_backward, mixture_forward
from snsoftmax.convolve import Convolved, NormalizedGradient
from snsoftmax.rectify_average import HandedGradients

_ops = torch.ops.snsoftmax


class SharedGradient:
    """The gradient of ``map`` in the backward pass under way, written by all its readers.

    Invariant: in a pass that asks for the map's gradient every reader comes by, and the last hands
    all of it on. Where a reader does not, because what it computed does not lead to the loss, the
    gradient would be lost; the map's own node then raises. A pass is known by autograd's number for
    it, so that one that was broken off leaves nothing to the next.
    """

    def __init__(self, map: Tensor) -> None:
        if map.grad_fn is not None:
            map.grad_fn.register_prehook(self._check)
        self.readers = 0
        self._task = -1
        self._done = 0
        self._buffer: Tensor | None = None

    def open(self, map: Tensor) -> tuple[Tensor, bool]:
        """Where to write, and whether something is there. Each reader calls this once a pass."""
        task = torch._C._current_graph_task_id()
        if task != self._task or self._buffer is None:
            self._task, self._done = task, 0
            # Not always the map's own layout: cuDNN's float64 convolutions have another.
            self._buffer = torch.empty_like(map, memory_format=torch.channels_last)
        self._done += 1
        return self._buffer, self._done > 1

    def close(self) -> Tensor | None:
        """The whole gradient for the last reader, None for those before."""
        if self._done < self.readers:
            return None
        gradient, self._buffer = self._buffer, None
        return gradient

    def _check(self, _: tuple[Tensor | None, ...]) -> None:
        """Before the map's node: has everything been handed on?"""
        if self._buffer is not None and self._task == torch._C._current_graph_task_id():
            raise RuntimeError(
                f"a map of the supernet would lose its gradient: {self._done} of its "
                f"{self.readers} readers lead to the loss; all that a cell computes must"
            )


Gradients = SharedGradient | HandedGradients | NormalizedGradient


class SharedMap(NamedTuple):
    """A map that nodes read, and where they leave its gradient.

    ``moments``: of the channels of each edge that the map holds, as in `Convolved`; empty where
    they are not known, and `mix` takes them itself.
    """

    map: Tensor
    gradient: Gradients
    moments: Sequence[Tensor] = ()

    def moments_at(self, edge: int) -> Sequence[Tensor]:
        """Of one of its edges: one tensor, or none."""
        return self.moments[edge : edge + 1]

    @classmethod
    def of(cls, map: Tensor, gradient: HandedGradients | None = None) -> SharedMap:
        """``map`` with no reader yet; its gradient goes to ``gradient``, or into a buffer."""
        return cls(map, SharedGradient(map) if gradient is None else gradient)

    @classmethod
    def convolved(cls, found: Convolved) -> SharedMap:
        """A map that one node alone is to read, and normalise."""
        return cls(found.map, found.gradient, () if found.moments is None else (found.moments,))


class Summand(NamedTuple):
    """What a node reads: ``channels`` of a shared map from ``start`` on.

    A ``normalized`` map is batch-normalised; ``mean`` and ``var`` are its running statistics
    (None: not tracked), ``moments`` those of the batch where they are known. A plain map is read
    whole.
    """

    shared: SharedMap
    normalized: bool = False
    start: int = 0
    channels: int = 0
    mean: Tensor | None = None
    var: Tensor | None = None
    moments: Tensor | None = None


class _Slice(NamedTuple):
    """Which of a node's maps, and which channels of it."""

    position: int
    normalized: bool
    start: int
    channels: int

    def of(self, maps: Sequence[Tensor]) -> Tensor:
        map = maps[self.position]
        if not self.normalized or map.shape[1] == self.channels:
            return map
        return map.narrow(1, self.start, self.channels)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        slices: Sequence[_Slice],
        gradients: Sequence[Gradients],
        moments: Sequence[Tensor],
        normalization: tuple[list[Tensor], list[Tensor], bool, float, float],
        weights: Tensor,
        *maps: Tensor,
    ) -> Tensor:
        k = sum(s.normalized for s in slices)
        parts = [s.of(maps) for s in slices]
        means, variances, *settings = normalization
        training = settings[0]
        ctx.distributed = training and k > 0 and parallel.world() > 1
        if ctx.distributed:
            statistics = means, variances
            out, mean, rstd = mixture_forward(parts[:k], parts[k:], weights, statistics)
        else:
            out, mean, rstd = _ops.mixture_forward(
                parts[:k], parts[k:], weights, means, variances, moments, *settings
            )
        for gradient, needed in zip(gradients, ctx.needs_input_grad[5:], strict=True):
            if isinstance(gradient, SharedGradient):
                gradient.readers += needed
        ctx.save_for_backward(weights, mean, rstd, *maps)
        ctx.slices, ctx.gradients, ctx.normalization = slices, gradients, normalization
        assert isinstance(out, Tensor)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, mean, rstd, *maps = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, None, None, *_differentiable(ctx, grad, weights, maps)
        needs_weights, *needs_maps = ctx.needs_input_grad[4:]
        nowhere = grad.new_empty(0)
        buffers, written = zip(
            *(
                gradient.open(map)
                if needs and isinstance(gradient, SharedGradient)
                else (nowhere, False)
                for gradient, map, needs in zip(ctx.gradients, maps, needs_maps, strict=True)
            ),
            strict=True,
        )
        k = sum(s.normalized for s in ctx.slices)
        parts = [s.of(maps) for s in ctx.slices]
        targets = [nowhere if buffers[s.position] is nowhere else s.of(buffers) for s in ctx.slices]
        read = grad, parts[:k], parts[k:], weights, mean, rstd
        # Of a map's slices each is written once; a map that is read whole, by several nodes.
        adds = [written[s.position] and s.of(maps) is maps[s.position] for s in ctx.slices]
        accumulate = adds[:k], adds[k:]
        handing = any(
            needs and isinstance(gradient, NormalizedGradient)
            for gradient, needs in zip(ctx.gradients, needs_maps, strict=True)
        )
        lines = mean.new_empty(k, 4, mean.shape[1]) if handing else None
        if ctx.distributed:
            grad_weights = mixture_backward(
                *read, targets[:k], targets[k:], *accumulate, needs_weights, lines
            )
        else:
            write: Sequence[Any] = targets[:k], accumulate[0], targets[k:], accumulate[1]
            training = ctx.normalization[2]
            grad_weights = _ops.mixture_backward(
                *read, *write, needs_weights, training, None, lines
            )
        for i, s in enumerate(ctx.slices):
            gradient = ctx.gradients[s.position]
            if not needs_maps[s.position]:
                continue
            if isinstance(gradient, HandedGradients):
                gradient.hand(grad, weights[i])
            elif isinstance(gradient, NormalizedGradient):
                assert lines is not None
                gradient.hand(grad, lines[i])
        closed = (
            gradient.close() if needs and isinstance(gradient, SharedGradient) else None
            for gradient, needs in zip(ctx.gradients, needs_maps, strict=True)
        )
        return None, None, None, None, grad_weights if needs_weights else None, *closed


def _differentiable(
    ctx: Any, grad: Tensor, weights: Tensor, maps: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of the weights and of each map as functions that can be differentiated again.

    Aliases stand for the inputs, since one map may be computed from another.
    """
    inputs = [x.view_as(x) for x in (weights, *maps)]
    k = sum(s.normalized for s in ctx.slices)
    parts = [s.of(inputs[1:]) for s in ctx.slices]
    means, variances, training, momentum, eps = ctx.normalization
    if ctx.distributed:
        maps = [composed(part) if i < k else part for i, part in enumerate(parts)]
        out = sum(w * map for w, map in zip(inputs[0], maps, strict=True))
    else:
        statistics = ([], []) if training else (means, variances)
        out, _, _ = _ops.mixture(
            parts[:k], parts[k:], inputs[0], *statistics, training, momentum, eps
        )
    wanted = [x for x, needs in zip(inputs, ctx.needs_input_grad[4:], strict=True) if needs]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return [next(found) if needs else None for needs in ctx.needs_input_grad[4:]]


def mix(summands: Sequence[Summand], weights: Tensor, training: bool) -> Tensor:
    """The weighted sum of ``summands``, the normalised ones first, with ``weights`` in that order.

    ``weights``: 1-d, of the parameters' dtype. Running statistics are updated if ``training``. A
    plain map must not occur twice.
    """
    shared = {id(s.shared.gradient): s.shared for s in summands}
    positions = {key: i for i, key in enumerate(shared)}
    slices = tuple(
        _Slice(positions[id(s.shared.gradient)], s.normalized, s.start, s.channels)
        for s in summands
    )
    moments = [s.moments for s in summands if s.normalized]
    if all(m is None for m in moments):
        moments = []
    nothing = weights.new_empty(0)
    running = [[s.mean, s.var] for s in summands if s.normalized]
    if all(mean is None for mean, _ in running):
        running = []
    means, variances = ([nothing if s[i] is None else s[i] for s in running] for i in (0, 1))
    out: Tensor = _Mixture.apply(
        slices,
        [s.gradient for s in shared.values()],
        [nothing if m is None else m for m in moments],
        (means, variances, training or not means, MOMENTUM, EPS),
        weights,
        *(s.map for s in shared.values()),
    )
    return out
