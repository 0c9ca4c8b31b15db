"""Writing files: whole or not at all, and in one sentence where it is not possible."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from darts.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its place when the block ends without an
    error.

    A reader, a killed process or a full disk never leaves a half-written file under the name.

    Raises:
        UserError: the file cannot be written (a full disk, a folder that is read-only).
    """
    with writing(path), _replacing(path) as file:
        yield file


def write_text(path: Path, text: str) -> Path:
    """Write a text file as a whole, in UTF-8; give its path.

    Raises:
        UserError: see `atomic_write`.
    """
    with atomic_write(path) as file:
        file.write(text.encode())
    return path


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as comma-separated lines, the first of them the heading."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into one sentence.

    Raises:
        UserError: see `atomic_write`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself survives a power failure
    finally:
        os.close(folder)
