"""The devices that a search or a training can run on."""

from __future__ import annotations

import torch

from darts.errors import UserError


def check_device(name: str) -> None:
    """Stop before any work where the setting `device` is of no use here.

    Raises:
        UserError: it is neither cpu nor cuda, or PyTorch finds no such GPU.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name!r} must be cpu, cuda or cuda:NUMBER.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count} of them" if count else "none"
            raise UserError(f"device={name!r} needs a GPU, and PyTorch finds {found} here.")
