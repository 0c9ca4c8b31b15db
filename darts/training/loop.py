"""What a search and a training from scratch share: SGD, and the loop that can be interrupted."""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from darts.config import SearchConfig, WeightConfig, as_dict
from darts.devices import parallel
from darts.errors import UserError
from darts.results.run_folder import RunFolder
from darts.training.checkpoint import Checkpoints, Keeper
from darts.training.divergence import Diverged
from darts.training.evaluation_config import EvaluationConfig, TrainingConfig
from snsoftmax import build_info

StepDone = Callable[[], None]
"""Called after every step, between which a run can be saved and stopped."""


def not_kept() -> None:
    """The `StepDone` of epochs that nobody keeps."""


class Resumable(Protocol):
    """Work in epochs that can be interrupted between any two steps."""

    @property
    def finished(self) -> bool:
        """Whether no epoch is left."""
        ...

    def run_epoch(self, step_done: StepDone = not_kept) -> dict[str, Any]:
        """Go on to the end of the epoch; gives its record."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the work goes on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict()` was taken."""
        ...


def environment() -> str:
    """What a run's last bits depend on besides its configuration, as JSON."""
    build = build_info()
    about = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "snsoftmax": build["version"],
        "cpu": build["cpu_capability"],
    }
    return json.dumps(about, indent=1) + "\n"


class Loop:
    """The epochs of a run, with its folder, its log and its checkpoints.

    Of a data-parallel run's processes the first alone has the folder.

    Args:
        config: names the folder (`out`, empty for none).
        work: what runs; its state is loaded where the run is resumed.
        resume: go on from the newest checkpoint in the folder.
        files: written into a new folder, by name.

    Raises:
        UserError: the folder is not usable, or there is none to resume in.
    """

    def __init__(
        self,
        config: SearchConfig | EvaluationConfig,
        work: Resumable,
        *,
        resume: bool,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.work = work
        self.folder: RunFolder | None = None
        self.checkpoints: Checkpoints | None = None
        plain = as_dict(config)

        def first() -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
            if not config.out:
                if resume:
                    raise UserError("resume needs out, the folder of the run to go on with.")
                return None, []
            if resume:
                self.folder = RunFolder.open(config.out)
            else:
                self.folder = RunFolder.create(config.out, plain)
                for name, text in ({"environment.json": environment()} | dict(files or {})).items():
                    self.folder.write_text(name, text)
            self.checkpoints = Checkpoints(self.folder.path, plain)
            state = self.checkpoints.load() if resume else None
            self.folder.truncate_log(state["records"] if state else 0)
            return state, self.folder.records()

        state, self.history = parallel.from_first(first)
        """One record per epoch, as in log.jsonl."""
        if resume and (threads := parallel.from_first(self._threads)):
            torch.set_num_threads(threads)
        if state:
            work.load_state_dict(state)
        self.keeper = Keeper(self.checkpoints, self._state, minutes=config.checkpoint_minutes)

    def _threads(self) -> int | None:
        """CPU threads that the folder's run began with; sums depend on it in the last bits."""
        path = self.folder.path / "environment.json" if self.folder else None
        if path is None or not path.is_file():
            return None
        return int(json.loads(path.read_text(encoding="utf-8"))["threads"])

    def run(self, told: Callable[[dict[str, Any]], object]) -> None:
        """Run all epochs that are left; each one's record is `told`.

        It is logged and the state saved while the next epoch runs; when this returns or raises, all
        that could be written is.

        Raises:
            Stopped: SIGTERM or SIGINT came; the state has been saved if there is a folder.
            UserError: the work has diverged; names the last good checkpoint.
        """
        try:
            with self.keeper:
                while not self.work.finished:
                    record = self.work.run_epoch(self.keeper.step_done)
                    self.history.append(record)
                    append = self.folder.append if self.folder else None
                    self.keeper.save(functools.partial(append, record) if append else not_kept)
                    told(record)
        except Diverged as error:
            files = self.checkpoints.files() if self.checkpoints else []
            if not files:
                raise
            raise UserError(
                f"{str(error).rstrip('.')}; the last good checkpoint is {files[-1]}."
            ) from error

    def _state(self) -> dict[str, Any]:
        return {"records": len(self.history), **self.work.state_dict()}


def sgd(
    parameters: Iterable[Tensor], settings: WeightConfig | TrainingConfig, device: str
) -> torch.optim.SGD:
    """SGD with `settings`, whose learning rate lies on the device (see `set_learning_rate`)."""
    return torch.optim.SGD(
        parameters,
        lr=torch.tensor(settings.learning_rate, device=device),
        fused=True,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
