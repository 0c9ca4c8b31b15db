"""DARTS+: DARTS that stops when skip connections take over.

Liang et al.: DARTS+: Improved Differentiable Architecture Search with Early Stopping,
arXiv:1909.06035 (criteria 1 and 2). No code was released. Criterion 1, the default: stop once the
normal cell's architecture has two skip connections; on nb201 the only cell is meant. Criterion 2:
once the order of α has been the same for 10 epochs. What was found at the end of that epoch is the
result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from darts.config import setting
from darts.methods.base import Method, Trainer, register


@register("darts-plus", "DARTS, stopped when skip connections take over")
class DARTSPlus(Method):
    """Watches the derived architecture."""

    needs_cells = True

    steady = True

    kept: ClassVar[tuple[str, ...]] = ("ranking", "stable")

    @dataclass(frozen=True)
    class Options(Method.Options):
        """The stopping rules."""

        skips: int = setting(2, "skip connections in the normal cell that end it", at_least=1)
        patience: int | None = setting(None, "epochs of unchanged ranking that end it", at_least=1)

    options: Options

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ranking: list[list[int]] = []
        self.stable = 0

    def end_epoch(self, trainer: Trainer) -> None:
        """Apply both rules."""
        super().end_epoch(trainer)
        (cell,) = self.space.leading
        choices = self.space.derive(self.scores()).cell(cell)
        skips = sum(choice.operation == "skip_connect" for choice in choices)
        ranking = self.logits[cell].argsort(-1, descending=True).tolist()
        self.stable = self.stable + 1 if ranking == self.ranking else 0
        self.ranking = ranking
        patience = self.options.patience
        self.finished = skips >= self.options.skips or (
            patience is not None and self.stable >= patience
        )
