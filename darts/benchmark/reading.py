"""Tables of answers as users have them: text, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeVar, cast

from darts.errors import UserError

T = TypeVar("T")


def read_text(file: Path, read: Callable[[TextIO], T], complaint: str) -> T:
    """What ``read`` makes of a file's text.

    Raises UserError, ``complaint`` and why, where the file is absent, damaged or not what ``read``
    expects.
    """
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8", newline="") as stream:
            return read(cast(TextIO, stream))
    except UserError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, csv.Error, zlib.error) as error:
        raise UserError(f"{complaint}: {error}.") from error
