"""Half-precision copies of the weights that autocast would cast one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from darts.networks.operations import Conv2d
from darts.supernet.branches import Branch


class _Copies(torch.autograd.Function):
    """Tensors in another dtype, and their gradients back: one multi-tensor copy each way."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [x.dtype for x in tensors]
        copies = [torch.empty_like(x, dtype=dtype) for x in tensors]
        torch._foreach_copy_(copies, tensors)
        return tuple(copies)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        copies = [torch.empty_like(g, dtype=d) for g, d in zip(gradients, ctx.dtypes, strict=True)]
        torch._foreach_copy_(copies, gradients)
        return None, *copies


def shadows(net: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """By its name every weight of ``net`` that a convolution alone reads, or a linear layer.

    Under autocast to ``dtype`` the network with these in place of its weights gives the same bits,
    and the same gradients; each is read as often as autocast would have cast it, once.
    """
    found = {}
    for prefix, module in net.named_modules():
        if isinstance(module, Branch):
            names = module.cast
        # Not any subclass, such as one that is parametrised: it may read its weight otherwise too;
        # and not a depthwise one, whose weight kernels of our own may read.
        elif type(module) in (nn.Conv2d, Conv2d, nn.Linear) and getattr(module, "groups", 1) == 1:
            names = ("weight",)
        else:
            continue
        for name in names:
            found[f"{prefix}.{name}"] = module.get_parameter(name)
    copies = _Copies.apply(dtype, *found.values())
    return dict(zip(found, copies, strict=True))
