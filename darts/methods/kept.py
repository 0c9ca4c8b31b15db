"""What a method's class names in `kept`, as a checkpoint holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor


def kept_values(owner: object) -> dict[str, Any]:
    """By name every attribute that a class of ``owner`` keeps; dataclasses become tuples."""
    names = [name for cls in type(owner).__mro__ for name in cls.__dict__.get("kept", ())]
    return {name: _plain(getattr(owner, name)) for name in names}


def restore_kept(owner: object, values: Mapping[str, Any], device: torch.device) -> None:
    """Set what `kept_values` gave: a tensor where it is, what is in lists and dictionaries anew on
    ``device``.
    """
    for name, value in values.items():
        current = getattr(owner, name)
        if isinstance(current, Tensor):
            current.copy_(value)
        elif dataclasses.is_dataclass(current):
            make = cast(Callable[..., Any], type(current))
            setattr(owner, name, make(*value))
        else:
            setattr(owner, name, _onto(value, device))


def _plain(value: Any) -> Any:
    return dataclasses.astuple(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _onto(value: Any, device: torch.device) -> Any:
    """The value with every tensor in its lists and dictionaries on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_onto(item, device) for item in value]
    if isinstance(value, dict):
        return {name: _onto(item, device) for name, item in value.items()}
    return value
