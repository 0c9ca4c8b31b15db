"""Running the cells of a study that are not finished, here or on a Ray cluster."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from darts.config import as_dict
from darts.devices.mps import shared_gpu
from darts.errors import UserError, on_one_line
from darts.results.run_folder import RunFolder
from darts.study.pace import START, next_cell
from darts.study.plan import Cell, Study
from darts.study.table import markdown, table
from darts.training.checkpoint import differences
from darts.training.evaluation_config import configure_evaluation

ATTEMPTS = 3
"""How often a search or an evaluation is started before its cell is given up."""
Run = Callable[[Cell], bool]
"""Brings a cell to its end, wherever; gives whether it finished."""


def run_study(
    study: Study,
    *,
    workers: int = 1,
    report: Callable[[str], None] = print,
    run: Run | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Run what is not finished yet; `NAME.json` and `NAME.md` in the study's folder follow.

    The first seed of every row comes first, so that an unfinished table is a whole one of fewer
    seeds; where time is short, what can still end. Several searches on one GPU share it by
    `darts.devices.mps.shared_gpu`.

    Args:
        study: see `read_study`.
        workers: cells at a time; they share the processor's cores.
        report: told a line whenever a cell starts or ends.
        run: brings one cell to its end; by default `run_cell`, on this machine.
        minutes: time for all of it, for `run_cell`; what runs then is saved and stopped. Every
            search resumes to the bit, so one that cannot end is started all the same, but none in
            the last half minute. None: as long as it takes.

    Returns:
        The table, as `table` gives it.

    Raises:
        UserError: a finished cell was run with another configuration, or a cell cannot be finished.
    """
    _check_begun(study)
    left = sorted((cell for cell in study.cells if not cell.finished), key=lambda cell: cell.seed)
    report(f"{len(study.cells)} cells, {len(study.cells) - len(left)} finished before")
    (study.out / "cells").mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // workers)
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    waiting = list(left)
    choosing, writing = threading.Lock(), threading.Lock()

    def seconds() -> float:
        return end - time.monotonic()

    def one(bring: Run) -> tuple[Cell, str]:
        with choosing:
            cell = next_cell(study, waiting, seconds()) if minutes is not None else waiting[0]
            waiting.remove(cell)
        if seconds() < START:
            return cell, "stopped"
        report(f"start {cell.folder.name}")
        ending = "end" if bring(cell) else "stopped" if seconds() <= 0 else "NOT FINISHED"
        report(f"{ending} {cell.folder.name}")
        with writing:
            _write(study)
        return cell, ending

    on_gpu = sum(cell.config["device"].startswith("cuda") for cell in left)
    shares = run is None and min(workers, on_gpu) > 1
    alone: AbstractContextManager[dict[str, str]] = nullcontext({})
    with shared_gpu(report) if shares else alone as environment:
        bring = run or functools.partial(
            run_cell, threads=threads, end=end, environment=environment
        )
        pool = ThreadPoolExecutor(workers)
        try:
            ended = list(pool.map(one, [bring] * len(left)))
        finally:
            pool.shutdown(cancel_futures=True)  # after an interrupt no further cell is begun
    failed = [cell.folder.name for cell, ending in ended if ending == "NOT FINISHED"]
    results = _write(study)
    if stopped := sum(ending == "stopped" for _, ending in ended):
        report(f"{stopped} cells are left; the same command goes on with them")
    if failed:
        raise UserError(
            f"{len(failed)} cells are not finished ({', '.join(failed)}); their output is in "
            f"{study.out / 'cells'}/NAME.txt, and the same command goes on with them."
        )
    return results


def _check_begun(study: Study) -> None:
    """Refuse folders that another configuration has begun."""
    for cell in study.cells:
        begun = {cell.folder: cell.config}
        for name, overrides in cell.evaluations.items():
            if (cell.evaluation(name) / "config.yaml").is_file():
                begun[cell.evaluation(name)] = as_dict(configure_evaluation(**overrides))
        for folder, config in begun.items():
            if not (folder / "config.yaml").is_file():
                continue
            for change in differences(RunFolder.open(folder).config, config):
                raise UserError(
                    f"{folder} was begun with another configuration: {change}; "
                    "name another folder in out, or delete the cell."
                )


def _write(study: Study) -> dict[str, Any]:
    results = table(study)
    folder = RunFolder(study.out)
    folder.write_text(f"{study.name}.json", json.dumps(results, ensure_ascii=False) + "\n")
    folder.write_text(f"{study.name}.md", markdown(results))
    return results


def run_cell(
    cell: Cell,
    *,
    threads: int | None = None,
    end: float = float("inf"),
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Search and evaluate one cell in processes of their own; gives whether it finished.

    A process that dies is started again, and resumes. Two processes never run one cell at the same
    time: the second waits, and then finds it finished.

    Args:
        cell: see `read_study`.
        threads: of each process; by default as many as it takes by itself. The environment variable
            OMP_NUM_THREADS has precedence.
        end: when, by `time.monotonic`, the running process is asked to save its state and stop.
        environment: of the processes, beside this one's.
    """
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cell.folder.with_suffix(".lock")) as lock:
        around = dict(os.environ)
        if threads is not None:
            around.setdefault("OMP_NUM_THREADS", str(threads))
        around |= environment or {}
        start = functools.partial(_start, cell, lock=lock, end=end, environment=around)
        start("search", cell.folder, cell.config, lambda: cell.searched)
        for name, config in cell.evaluations.items():
            folder = cell.evaluation(name)
            verdict = folder / "result.json"
            if cell.searched:
                start("evaluate", folder, config, verdict.is_file)
    return cell.finished


def _start(
    cell: Cell,
    command: str,
    folder: Path,
    config: Mapping[str, Any],
    finished: Callable[[], bool],
    *,
    lock: int,
    end: float,
    environment: Mapping[str, str],
) -> None:
    """Run one command to its end, again after a crash."""
    for _ in range(ATTEMPTS):
        left = end - time.monotonic()
        if finished() or left <= 0:
            break
        if (folder / "config.yaml").is_file():
            arguments = ["--resume", str(folder)]
        else:
            file = RunFolder(folder.parent).write_text(
                f"{folder.name}.yaml", yaml.safe_dump(dict(config))
            )
            arguments = ["--config", str(file)]
        if command == "search":
            arguments.append("--quiet")
        with cell.folder.with_suffix(".txt").open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "darts", command, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(lock,),  # the process keeps the lock should this one die
            )
            try:
                status = process.wait(None if left == float("inf") else left)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)  # it saves its state after the step it is in
                status = process.wait()
        if status in (0, 2):  # finished, asked to stop, or a mistake that would only repeat
            break


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def run_on_ray(address: str) -> Run:
    """A `Run` that hands each cell to a Ray cluster; lost workers are replaced by Ray.

    The working directory must be one that all machines share. Without an address, a cluster of
    this machine alone is started.

    Raises:
        UserError: Ray is not installed or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install ray.") from error
    try:
        ray.init(address=address or None, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray {address}: {on_one_line(error)}.") from error
    directory = os.getcwd()

    def there(cell: Cell) -> bool:
        os.chdir(directory)
        return run_cell(cell)  # Ray gives a task of one core one thread

    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(there)

    def run(cell: Cell) -> bool:
        try:
            return bool(ray.get(task.remote(cell)))
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray gave up {cell.folder.name}: {on_one_line(error)}.") from error

    return run
