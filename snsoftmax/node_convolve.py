"""All convolutions that leave a node of the supernet, and the moments of what they give.

On CUDA by kernels of our own: the map is read once, rectified on its way to the tensor cores, and
batch norm's moments come from what is written; so are both gradients, each of all edges at once.
Outside what those kernels are for, by cuDNN.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ``moments``: [edges of ``three``, then of ``one``, 2, C] in float64, mean and sum of squared
    deviations of each channel over images and pixels, the latter -1 of an edge that is not live;
    no gradient goes through them.
    """

    three: Tensor
    one: Tensor
    moments: Tensor


def fits(device: str, dtype: torch.dtype, channels: int, edges: int, tf32: bool) -> bool:
    """Are the kernels of our own for maps of ``dtype`` with ``channels`` on such a ``device``?

    ``edges``: most of an operation. ``tf32``: may float32 be rounded to TF32, as PyTorch lets cuDNN
    by default (``torch.backends.cudnn.allow_tf32``)? On the device ``meta``, where nothing is
    computed, it is as on CUDA.
    """
    products = dtype == torch.bfloat16 or (dtype == torch.float32 and tf32)
    own = device in ("cuda", "meta") and products
    return own and channels in CHANNELS and edges <= MOST_EDGES


def fits_map(x: Tensor, edges: int) -> bool:
    """`fits` for ``x``, as PyTorch's settings are now."""
    return fits(x.device.type, x.dtype, x.shape[1], edges, torch.backends.cudnn.allow_tf32)


def _fits(x: Tensor, three: Tensor, one: Tensor) -> bool:
    return fits_map(x, max(len(three), len(one)) // x.shape[1])


def composed(x: Tensor, three: Tensor, one: Tensor, live: Tensor | None) -> NodeMaps:
    """`node_convolve` by PyTorch's own operators; zeros where an edge is not live."""
    _ops.node_convolve_check(x, three, one, live)
    rectified = F.relu(x)
    maps = [
        F.conv2d(rectified, w, padding=w.shape[-1] // 2) if len(w) else x[:, :0]
        for w in (three, one)
    ]
    y_three, y_one = (
        y.contiguous(memory_format=torch.channels_last) for y in _of_live_edges(x, maps, live)
    )
    with torch.no_grad():
        y = torch.cat((y_three, y_one), dim=1).double().unflatten(1, (-1, x.shape[1]))
        var, mean = torch.var_mean(y, (0, 3, 4), correction=0)
        squares = var * (x.numel() // x.shape[1])
        if live is not None:
            squares.masked_fill_(~live[:, None], -1)
        moments = torch.stack((mean, squares), dim=1)
    return NodeMaps(y_three, y_one, moments)


def _of_live_edges(x: Tensor, maps: Sequence[Tensor], live: Tensor | None) -> Sequence[Tensor]:
    """Zeros for the others, whatever their part of the maps says."""
    if live is None:
        return maps
    of = live.repeat_interleave(x.shape[1]).split([y.shape[1] for y in maps])
    return [torch.where(part[:, None, None], y, 0) for part, y in zip(of, maps, strict=True)]


def _convolution_backward(
    grad: Tensor, rectified: Tensor, weight: Tensor, needs_map: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    if len(weight) == 0:
        return torch.zeros_like(rectified), torch.empty_like(weight)
    padding = [weight.shape[-1] // 2] * 2
    of_map, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, rectified, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1,
        [needs_map, needs_weight, False],
    )  # fmt: skip
    return of_map, of_weight


def composed_weights(
    grad_three: Tensor, grad_one: Tensor, x: Tensor, live: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of ``three`` and ``one`` from those of their maps, by PyTorch."""
    rectified = F.relu(x)
    three, one = (
        _convolution_backward(
            grad, rectified, x.new_empty(grad.shape[1], x.shape[1], side, side), False, True
        )[1].contiguous(memory_format=torch.channels_last)
        for grad, side in zip(_of_live_edges(x, (grad_three, grad_one), live), (3, 1), strict=True)
    )
    return three, one


def composed_map(
    grad_three: Tensor,
    grad_one: Tensor,
    x: Tensor,
    three: Tensor,
    one: Tensor,
    live: Tensor | None,
) -> Tensor:
    """The gradient of ``x`` from those of the maps, by PyTorch."""
    grads = _of_live_edges(x, (grad_three, grad_one), live)
    of_three, of_one = (
        _convolution_backward(grad, x, weight, True, False)[0]
        for grad, weight in zip(grads, (three, one), strict=True)
    )
    grad: Tensor = torch.ops.aten.threshold_backward(of_three + of_one, x, 0)
    return grad.contiguous(memory_format=torch.channels_last)


# What the operators' tests run where there is no GPU.
torch.library.register_kernel("snsoftmax::node_convolve", "cpu", composed)
torch.library.register_kernel("snsoftmax::node_convolve_backward_weights", "cpu", composed_weights)
torch.library.register_kernel("snsoftmax::node_convolve_backward_map", "cpu", composed_map)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.mark_non_differentiable(*output[2:])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """By kernels of our own where the map was convolved by one; else, and where this is to be
    differentiated again, by PyTorch's convolutions.
    """
    of_three, of_one, *_ = grads
    x, three, one, live = ctx.saved_tensors
    needs_map, *needs_weights = ctx.needs_input_grad[:3]
    own = not torch.is_grad_enabled() and _fits(x, three, one)
    of_weights = _ops.node_convolve_backward_weights if own else composed_weights
    of_map = _ops.node_convolve_backward_map if own else composed_map
    found: list[Tensor | None] = [None, None]
    if any(needs_weights):
        found = list(of_weights(of_three, of_one, x, live))
    grad_map = of_map(of_three, of_one, x, three, one, live) if needs_map else None
    return grad_map, *found, None


torch.library.register_autograd("snsoftmax::node_convolve", _backward, setup_context=_setup)


def node_convolve(x: Tensor, three: Tensor, one: Tensor, live: Tensor | None = None) -> NodeMaps:
    """Convolve max(``x``, 0), [N, C, H, W], 3x3 and 1x1 for every edge that leaves a node.

    ``three`` [edges·C, C, 3, 3] and ``one`` [edges·C, C, 1, 1], of ``x``'s dtype, hold an
    operation's edges, or none, one behind the other; borders are zeros. ``live`` [edges of
    ``three``, then of ``one``], bool, on ``x``'s device: an edge that is not is left out, its part
    of the maps must not be read. Raises ValueError or TypeError where shapes,
    devices or dtypes differ from that.
    """
    if _fits(x, three, one):
        return NodeMaps(*_ops.node_convolve(x, three, one, live))
    return composed(x, three, one, live)
