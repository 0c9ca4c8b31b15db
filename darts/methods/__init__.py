"""Every search method; a new file in this folder is found by itself."""

from __future__ import annotations

import importlib
import pkgutil

from darts.methods.base import METHODS, Method, Step, Trainer, Weights, get_method, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "Method", "Step", "Trainer", "Weights", "get_method", "register"]
