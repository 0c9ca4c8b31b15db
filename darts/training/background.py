"""Writing while the next epoch runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """One thread, one job at a time, in order; what a job raises is raised by the next call here.

    A job must not touch the device: while a step is recorded, no other thread may.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="darts-writer")
        self._running: Future[object] | None = None

    def start(self, job: Callable[[], object]) -> None:
        """Begin a job once the one before is over.

        Raises:
            Exception: that of the one before; this one is not begun.
        """
        self.wait()
        self._running = self._pool.submit(job)

    def wait(self) -> None:
        """Until nothing runs.

        Raises:
            Exception: that of the job, once.
        """
        running, self._running = self._running, None
        if running:
            running.result()
