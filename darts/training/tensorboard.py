"""A search for TensorBoard: scalars, α and β of each edge, entropies, gradients, the cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.results.found import found
from darts.training.search import Callback, Result, Search

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SCALARS = (
    "temperature",
    "entropy",
    "weight_loss",
    "weight_accuracy",
    "arch_loss",
    "arch_accuracy",
    "seconds",
)


class TensorBoard(Callback):
    """Writes event files, one step an epoch (from 1), into `folder`.

    Tags: the log's own names; `nb201/DATASET`; `alpha/CELL/SOURCE-TARGET/OPERATION`, the same for
    `beta`, and `entropy/...` and `gradient_norm/...` for each edge. The found cell is drawn
    whenever it changes. A resumed search goes on in the same folder.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "TensorBoard is not installed: pip install tensorboard, or leave --tensorboard out."
            ) from error
        self._make: type[SummaryWriter] = SummaryWriter
        self.folder = folder
        self.writer: SummaryWriter | None = None
        self._drawn = ""

    def started(self, search: Search) -> None:
        """Open the files; what an interrupted run wrote beyond its checkpoint is hidden."""
        self.writer = self._make(str(self.folder), purge_step=search.epoch + 1)  # type: ignore[no-untyped-call]

    def epoch_ended(self, search: Search, record: dict[str, Any]) -> None:
        """Write one epoch."""
        step = record["epoch"] + 1
        for name in _SCALARS:
            if name in record:
                self._scalar(name, record[name], step)
        for name, value in record.get("nb201", {}).items():
            self._scalar(f"nb201/{name}", value, step)
        self._edges(search, "entropy", search.method.entropies(), step)
        self._edges(search, "gradient_norm", record.get("gradient_norms", {}), step)
        alpha = {name: logits.detach().cpu() for name, logits in search.method.logits.items()}
        for kind, table in (("alpha", alpha), ("beta", record["weights"])):
            self._operations(search, kind, table, step)
        if record["genotype"] != self._drawn:
            self._drawn = record["genotype"]
            self._cells(self._drawn, step)
        assert self.writer
        self.writer.flush()  # type: ignore[no-untyped-call]

    def ended(self, search: Search, result: Result) -> None:
        """Draw what was found and close the files."""
        self._cells(str(result.genotype), search.epoch)
        assert self.writer
        self.writer.close()  # type: ignore[no-untyped-call]

    def _scalar(self, tag: str, value: Any, step: int) -> None:
        assert self.writer
        self.writer.add_scalar(tag, float(value), step)  # type: ignore[no-untyped-call]

    def _edges(self, search: Search, kind: str, values: Mapping[str, Any], step: int) -> None:
        """One number for each edge of each cell type."""
        for name, of_edges in values.items():
            edges = search.space.cells[name].edges
            for (source, target), value in zip(edges, of_edges, strict=True):
                self._scalar(f"{kind}/{name}/{source}-{target}", value, step)

    def _operations(self, search: Search, kind: str, values: Mapping[str, Any], step: int) -> None:
        """One number for each operation of each edge."""
        for name, rows in values.items():
            cell = search.space.cells[name]
            for (source, target), names, row in zip(cell.edges, cell.candidates, rows, strict=True):
                for operation, value in zip(names, row, strict=True):
                    self._scalar(f"{kind}/{name}/{source}-{target}/{operation}", value, step)

    def _cells(self, genotype: str, step: int) -> None:
        assert self.writer
        for name, draw in found(Genotype.parse(genotype)).items():
            figure = Figure(figsize=(7.6, 3.6), layout="constrained")
            draw(figure.add_subplot())
            self.writer.add_image(f"cell/{name}", _pixels(figure), step, dataformats="HWC")  # type: ignore[no-untyped-call]


def _pixels(figure: Figure) -> Any:
    """A figure as uint8 [height, width, 3]."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
