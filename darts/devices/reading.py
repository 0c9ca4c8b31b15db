"""From a device to the CPU: few waits, since each lets the device run dry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def read(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on the CPU of tensors that lie on one device, by one copy and one wait.

    Args:
        tensors: numbers that float64 holds: floating ones, booleans, integers up to 2^53.
    """
    flat = torch.cat([x.detach().reshape(-1).double() for x in tensors]).cpu()
    parts = flat.split([x.numel() for x in tensors])
    return [part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True)]


def snapshot(state: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts, lists and tuples with every tensor copied to the CPU, by one wait a device.

    What happens to the originals later does not reach the copy. A tensor that is dense keeps its
    strides: an optimiser reads its momentum in the order of the parameter.
    """
    gpus = set()

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            on_gpu = value.device.type == "cuda"
            if on_gpu:
                gpus.add(value.device)
            # Only into pinned memory are copies queued; into other memory each would wait.
            copy = torch.empty_like(value, device="cpu", requires_grad=False, pin_memory=on_gpu)
            return copy.copy_(value.detach(), non_blocking=on_gpu)
        if isinstance(value, Mapping):
            return {name: copied(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(copied, value))
        return value

    whole: dict[str, Any] = copied(state)
    for device in gpus:
        torch.cuda.current_stream(device).synchronize()
    return whole
