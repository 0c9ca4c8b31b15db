"""All convolutions that leave a node of the supernet, and the moments of what they give.

On CUDA by a kernel of our own: the map is read once, rectified on its way to the tensor cores, and
batch norm's moments come from what is written. Outside what that kernel is for, by cuDNN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from snsoftmax import _C  # noqa: F401  registers the operators

_ops = torch.ops.snsoftmax
CHANNELS = (16, 32, 64)
MOST_EDGES = 32
"""Of an operation."""


class NodeMaps(NamedTuple):
    """What `node_convolve` gives.

    ``three``, ``one``: the maps of the 3x3 and of the 1x1 convolutions, [N, edges·C, H, W].
    ``mean``, ``var`` (biased): of every channel of ``three``, then of ``one``, over images and
    pixels, in float32, or float64 for float64 maps; no gradient goes through them.
    """

    three: Tensor
    one: Tensor
    mean: Tensor
    var: Tensor


def fits(device: str, dtype: torch.dtype, channels: int, edges: int, tf32: bool) -> bool:
    """Is the kernel of our own for maps of ``dtype`` with ``channels`` on such a ``device``?

    ``edges``: most of an operation. ``tf32``: may float32 be rounded to TF32, as PyTorch lets cuDNN
    by default (``torch.backends.cudnn.allow_tf32``)?
    """
    products = dtype == torch.bfloat16 or (dtype == torch.float32 and tf32)
    return device == "cuda" and products and channels in CHANNELS and edges <= MOST_EDGES


def composed(x: Tensor, three: Tensor, one: Tensor, live: Tensor | None) -> NodeMaps:
    """`node_convolve` by PyTorch's own operators; zeros where an edge is not live."""
    # The operator itself looks at shapes, devices and dtypes.
    _ops.node_convolve(*(t if t is None else t.to("meta") for t in (x, three, one, live)))
    rectified = F.relu(x)
    maps = [F.conv2d(rectified, w, padding=w.shape[-1] // 2) for w in (three, one)]
    if live is not None:
        of = live.repeat_interleave(x.shape[1]).split([len(three), len(one)])
        maps = [torch.where(part[:, None, None], y, 0) for part, y in zip(of, maps, strict=True)]
    y_three, y_one = (y.contiguous(memory_format=torch.channels_last) for y in maps)
    with torch.no_grad():
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        moments = [torch.var_mean(y.to(wide), (0, 2, 3), correction=0) for y in (y_three, y_one)]
        var, mean = (torch.cat(parts) for parts in zip(*moments, strict=True))
    return NodeMaps(y_three, y_one, mean, var)


# What the operator's tests run where there is no GPU.
torch.library.register_kernel("snsoftmax::node_convolve", "cpu", composed)


class _NodeConvolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, three: Tensor, one: Tensor, live: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, three, one, live)
        maps: tuple[Tensor, ...] = _ops.node_convolve(x, three, one, live)
        ctx.mark_non_differentiable(*maps[2:])
        return maps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By cuDNN; differentiable again."""
        x, three, one, live = ctx.saved_tensors
        needs_map, *needs_weights = ctx.needs_input_grad[:3]
        rectified = F.relu(x)
        found: list[Tensor | None] = []
        of_map = []
        for weight, grad, needs, first in zip(
            (three, one), grads[:2], needs_weights, (0, len(three)), strict=True
        ):
            if live is not None:  # a map that was not written has no gradient, whatever it says
                of = live.repeat_interleave(x.shape[1])[first : first + len(weight)]
                grad = torch.where(of[:, None, None], grad, 0)
            padding = [weight.shape[-1] // 2] * 2
            part, of_weight, _ = torch.ops.aten.convolution_backward(
                grad, rectified, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1,
                [needs_map, needs, False],
            )  # fmt: skip
            of_map.append(part)
            found.append(of_weight if needs else None)
        grad_map = None
        if needs_map:
            grad_map = torch.ops.aten.threshold_backward(of_map[0] + of_map[1], x, 0)
        return grad_map, *found, None


def node_convolve(x: Tensor, three: Tensor, one: Tensor, live: Tensor | None = None) -> NodeMaps:
    """Convolve max(``x``, 0), [N, C, H, W], 3x3 and 1x1 for every edge that leaves a node.

    ``three`` [edges·C, C, 3, 3] and ``one`` [edges·C, C, 1, 1], of ``x``'s dtype, hold an
    operation's edges one behind the other; borders are zeros. ``live`` [edges of ``three``, then
    of ``one``], bool, on ``x``'s device: an edge that is not is left out, its part of the maps must
    not be read, its moments are 0. Raises ValueError or TypeError where shapes, devices or dtypes
    differ from that.
    """
    edges = max(len(three), len(one)) // x.shape[1]
    tf32 = torch.backends.cudnn.allow_tf32
    if fits(x.device.type, x.dtype, x.shape[1], edges, tf32):
        return NodeMaps(*_NodeConvolve.apply(x, three, one, live))
    return composed(x, three, one, live)
