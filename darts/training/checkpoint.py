"""Checkpoints that survive being killed, and stopping on request.

A checkpoint is one file: a line that names the format, a line with the SHA-256 of what follows,
then a `torch.save` archive of plain values and tensors. It is written beside its final name and
moved there, so a name always stands for a whole file; the two newest are kept, so that one good
file is left should the newest one be damaged later.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from darts.devices import parallel
from darts.devices.reading import snapshot
from darts.errors import UserError, on_one_line
from darts.files import atomic_write, writing
from darts.training.background import Background

_FORMAT = b"darts checkpoint 2\n"
_KEEP = 2


class Checkpoints:
    """The checkpoints of one run, in the folder `checkpoints` inside the run folder.

    Args:
        folder: the run folder.
        config: the run's configuration; a checkpoint of another one is refused. The entry `out` may
            differ, because a run folder may be moved.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder / "checkpoints"
        self._config = {name: value for name, value in config.items() if name != "out"}

    def files(self) -> list[Path]:
        """The files, oldest first."""
        return sorted(self.folder.glob("*.ckpt"))

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint of `state` (tensors and plain values) and remove all but the two
        newest.

        Raises:
            UserError: it cannot be written (a full disk); the checkpoints before it are kept.
        """
        buffer = io.BytesIO()
        content = {
            "config": self._config,
            "version": package_version(),
            "torch": torch.__version__.split("+")[0],
            "state": dict(state),
        }
        torch.save(content, buffer)
        payload = buffer.getbuffer()
        before = self.files()
        number = int(before[-1].stem) + 1 if before else 1
        path = self.folder / f"{number:08d}.ckpt"
        try:
            with writing(path):
                self.folder.mkdir(exist_ok=True)
            with atomic_write(path) as file:
                file.write(_FORMAT + hashlib.sha256(payload).hexdigest().encode() + b"\n")
                file.write(payload)
        except UserError as error:
            kept = f"{before[-1]} is kept" if before else "there is none before it"
            raise UserError(f"checkpoint {str(error).rstrip('.')}; {kept}.") from error
        left_by_a_kill = self.folder.glob(".*.ckpt-*")
        for old in (*before[: -(_KEEP - 1)], *left_by_a_kill):
            old.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint, or None if there is none.

        Raises:
            UserError: it is damaged, or of another format, version or configuration.
        """
        files = self.files()
        if not files:
            return None
        newest = files[-1]
        try:
            content = read(newest)
        except UserError as error:
            older = [path for path in files[:-1] if _is_good(path)]
            if not older:
                raise
            raise UserError(
                f"{str(error).rstrip('.')}; {older[-1]} is good: "
                f"delete {newest.name} to resume from that."
            ) from error
        self._check(newest, content)
        state: dict[str, Any] = content["state"]
        return state

    def _check(self, path: Path, content: dict[str, Any]) -> None:
        if content["version"] != package_version():
            raise UserError(
                f"checkpoint {path} was written by version {content['version']}, and this is "
                f"{package_version()}: install that version to resume."
            )
        for change in differences(content["config"], self._config):
            raise UserError(
                f"checkpoint {path} belongs to another configuration: {change}; "
                "restore config.yaml, or start a new run."
            )
        here = torch.__version__.split("+")[0]
        if content["torch"] != here:
            warnings.warn(
                f"checkpoint {path} was written under torch {content['torch']}, this is {here}: "
                "the resumed run may differ in the last bits",
                stacklevel=3,
            )


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's whole content.

    Raises:
        UserError: it is damaged, unreadable or of another format.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}.") from error
    first, _, rest = raw.partition(b"\n")
    digest, _, payload = rest.partition(b"\n")
    if first + b"\n" != _FORMAT:
        known = (
            first.decode("ascii", "replace") if first.startswith(b"darts checkpoint") else "none"
        )
        raise UserError(
            f"checkpoint {path} has format {known!r}, "
            f"and this version reads {_FORMAT.decode().strip()!r}."
        )
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise UserError(f"checkpoint {path} is damaged: its checksum does not match.")
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(payload), map_location="cpu", weights_only=True
        )
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {on_one_line(error)}.") from error
    return content


def _is_good(path: Path) -> bool:
    try:
        read(path)
    except UserError:
        return False
    return True


def differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """One clause for each setting that differs between two nested configurations."""
    found = []
    for name in sorted({*before, *now}):
        path = f"{where}{name}"
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}.")
        elif old != new:
            found.append(f"{path} was {old!r} and is now {new!r}")
    return found


def package_version() -> str:
    """Version of the installed distribution, or "source" when run from a tree without one."""
    try:
        # Without the part that names the PyTorch release it was built for.
        return metadata.version("snsoftmax").split("+")[0]
    except metadata.PackageNotFoundError:
        return "source"


def random_state(device: str = "cpu") -> dict[str, Any]:
    """State of every global random generator: torch's for the CPU and `device`, Python's, NumPy's.

    It is that of each process of a data-parallel run.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)
    on_gpu = torch.device(device).type == "cuda"
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }


def set_random_state(state: Mapping[str, Any], device: str = "cpu") -> None:
    """Restore what `random_state` took."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


class Stopped(Exception):
    """The run was asked to stop, has saved itself, and can be resumed."""


class Keeper:
    """Saves a run every so many minutes, and at a signal, between two steps.

    Files are written in the background, from a copy of the state; `with` ends when they are.

    Inside `with keeper:`, SIGTERM and SIGINT ask for a stop instead of ending the process; a second
    SIGINT ends it. In a data-parallel run all processes stop after the same step, whichever of them
    was asked.

    Args:
        checkpoints: where to save; None for a run (or process) that writes nothing.
        collect: gives the state to save.
        minutes: longest time between two checkpoints.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        collect: Callable[[], Mapping[str, Any]],
        *,
        minutes: float = 10.0,
    ) -> None:
        self._checkpoints = checkpoints
        self._collect = collect
        self._seconds = 60 * minutes
        self._last = time.monotonic()
        self._background = Background()
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Keeper:
        """Take over the two signals (in the main thread, the only one that can)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._handlers[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        """Finish writing, and give the signals back."""
        try:
            # A second failure would hide the first.
            with nullcontext() if kind is None else suppress(Exception):
                self.wait()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def step_done(self) -> None:
        """Call after each step: saves if it is time, and stops if a signal asked for it.

        Raises:
            Stopped: after saving, if a signal came.
            UserError: what was being written could not be.
        """
        due = time.monotonic() - self._last >= self._seconds
        asked, saves = parallel.greatest([self._signal or 0, due])
        if asked or saves:
            self.save()
        if asked:
            self.wait()
            raise Stopped(f"stopped by {signal.Signals(asked).name}")

    def save(self, before: Callable[[], object] = lambda: None) -> None:
        """Save as of now, after calling ``before``; both in the background.

        Raises:
            UserError: what was being written could not be.
        """
        if self._checkpoints:
            state, write = snapshot(self._collect()), self._checkpoints.save

            def job() -> None:
                before()
                write(state)

            self._background.start(job)
        self._last = time.monotonic()

    def wait(self) -> None:
        """Until all is written.

        Raises:
            UserError: it cannot be.
        """
        self._background.wait()
