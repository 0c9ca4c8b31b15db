"""Spaces and methods from outside the package, named `MODULE:NAME` wherever a name is asked for.

Importing MODULE registers NAME. The configuration keeps the whole name, so that a resumed run, a
report and a study's processes find it again.
"""

from __future__ import annotations

import importlib
from typing import Any

from darts.errors import UserError


def attribute(name: str, setting: str) -> Any:
    """What `MODULE:NAME` names in MODULE, such as a function.

    Raises:
        UserError: there is no such module, or nothing of the name in it.
    """
    module, colon, own = name.rpartition(":")
    found = None
    if colon:
        imported(name, setting)
        found = getattr(importlib.import_module(module), own, None)
    if found is None:
        raise UserError(f"{setting}={name!r} must be MODULE:NAME, and MODULE must have NAME.")
    return found


def imported(name: str, setting: str) -> str:
    """NAME of `MODULE:NAME`, after importing MODULE; any other name as it is.

    Args:
        name: what the setting says.
        setting: the setting's name, for the error.

    Raises:
        UserError: there is no such module.
    """
    module, colon, own = name.rpartition(":")
    if not colon:
        return name
    try:
        importlib.import_module(module)
    except (ModuleNotFoundError, ValueError) as error:
        raise UserError(
            f"{setting}={name!r}: {module!r} cannot be imported ({error}); "
            "it must be in the working directory or installed."
        ) from error
    return own
