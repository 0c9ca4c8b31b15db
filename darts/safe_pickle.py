"""Reading other people's pickles without letting them run code."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
"""What NumPy pickles its numbers with."""
_ARRAY: Callable[..., Any] = np.zeros(1).__reduce__()[0]  # type: ignore[assignment]

_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): codecs.encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "scalar"): SCALAR,
    ("numpy._core.multiarray", "scalar"): SCALAR,
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
}


def load(
    file: IO[bytes],
    *,
    extra: Mapping[tuple[str, str], Callable[..., Any]] | None = None,
    encoding: str = "ASCII",
) -> Any:
    """Unpickle plain values and NumPy numbers and arrays, and nothing else.

    Args:
        file: open for reading.
        extra: further names (module, name) and what to call for them.
        encoding: of strings that Python 2 wrote.

    Raises:
        pickle.UnpicklingError: it holds anything else, which is named, or is damaged.
    """
    allowed = {**_ALLOWED, **(extra or {})}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return allowed[module, name]
            except KeyError:
                raise pickle.UnpicklingError(f"it holds a {module}.{name}") from None

    return Unpickler(file, encoding=encoding).load()
