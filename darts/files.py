"""Writing files: whole or not at all, and in one sentence where it is not possible."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

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


def read_csv(path: Path, kinds: Mapping[str, Callable[[str], Any]]) -> list[dict[str, Any]] | None:
    """The lines of a file of `csv_text`, as column → value.

    Args:
        path: the file.
        kinds: column → what makes its value of the text.

    Returns:
        None where it is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
        return [{name: kind(line[name]) for name, kind in kinds.items()} for line in lines]
    except (KeyError, TypeError, ValueError, OSError, csv.Error):
        return None


def hold_settings(file: Path, settings: Mapping[str, object], *, out: str) -> None:
    """Keep what results depend on beside them: they go on only with the same.

    Writes the settings to `file`, or sees that it holds them already.

    Args:
        file: JSON.
        settings: name on the command line → value.
        out: what the user gave as --out.

    Raises:
        UserError: the file holds others, or none that can be read.
    """
    if not file.is_file():
        write_text(file, json.dumps(dict(settings), indent=1) + "\n")
        return
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} does not hold a command's settings.") from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(
                f"out={out!r} was made with {name}={before.get(name)!r}, not {value!r}; repeat its "
                "command to go on, or choose another place."
            )


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
