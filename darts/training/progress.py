"""What a search shows on the terminal: one line an epoch, and a bar that tells the time left."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from darts.training.search import Callback, Result, Search

_COLUMNS = ("epoch", "t", "H(β)", "ω loss", "ω acc", "α loss", "α acc", "seconds")


class Progress(Callback):
    """Prints the search.

    Args:
        quiet: no bar; also the behaviour where the output is no terminal.
        console: where to print.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.bar: Bar | None = None
        self.shows_bar = self.console.is_terminal and not quiet

    def started(self, search: Search) -> None:
        """Print the heading."""
        config = search.config
        self.console.print(
            f"{search.method.name} on {config.space}, {search.images.name}: "
            f"C={config.supernet.channels}, N={config.supernet.cells}, "
            f"batch {config.data.batch_size}, {search.method.epochs} epochs, seed {config.seed}"
        )
        names = [*_COLUMNS, *(["NB201 C10"] if search.table else [])]
        self.console.print("".join(f"{name:>10}" for name in names), style="bold")
        if self.shows_bar:
            self.bar = Bar(
                TextColumn("epoch"),
                MofNCompleteColumn(),
                BarColumn(None),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("", total=search.method.epochs, completed=search.epoch)
            self.bar.start()

    def stepped(self, search: Search, step: int, steps: int) -> None:
        """Move the bar."""
        if self.bar:
            self.bar.update(self.task, completed=search.epoch + step / steps)

    def epoch_ended(self, search: Search, record: dict[str, Any]) -> None:
        """Print the epoch's line."""
        cells = [
            f"{record['epoch'] + 1}/{search.method.epochs}",
            f"{record['temperature']:.3g}",
            f"{record['entropy']:.3f}",
        ]
        for part in ("weight", "arch"):
            loss, accuracy = (
                record.get(f"{part}_{what}", math.nan) for what in ("loss", "accuracy")
            )
            cells += ["-", "-"] if math.isnan(loss) else [f"{loss:.3f}", f"{accuracy:.1f}%"]
        cells.append(f"{record['seconds']:.1f}")
        if "nb201" in record:
            cells.append(f"{record['nb201']['cifar10']:.2f}")
        self.console.print("".join(f"{cell:>10}" for cell in cells))

    def stopped(self, message: str) -> None:
        """End the bar and say why."""
        if self.bar:
            self.bar.stop()
        self.console.print(message)

    def ended(self, search: Search, result: Result) -> None:
        """Print what was found."""
        if self.bar:
            self.bar.stop()
        self.console.print(f"genotype  {result.genotype}")
        if search.budget:
            self.console.print(f"budget  {search.budget.summary(result.genotype)}")
        if search.table:
            self.console.print(search.table.verdict(str(result.genotype)))
        if result.folder:
            self.console.print(f"run folder  {result.folder}")
