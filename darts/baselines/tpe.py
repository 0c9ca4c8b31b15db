"""The tree-structured Parzen estimator, by Optuna (Bergstra et al., NeurIPS 2011).

Each edge is a categorical parameter of Optuna's `TPESampler` with its own defaults: ten random
cells, then the best of 24 draws by the ratio of the densities of good and bad ones, edge by edge.
"""

from __future__ import annotations

import numpy as np

from darts.baselines.searcher import Question, Values
from darts.errors import UserError


class TPE:
    """See `Searcher`; one study of Optuna's a search, one after another.

    Args:
        shape: (edges, operations) of a cell.
        searches: how many at once.
        generator: source of the samplers' seeds.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(
        self, shape: tuple[int, int], searches: int, generator: np.random.Generator
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError("searcher 'tpe' needs Optuna: pip install optuna.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._edges, self._choices = range(shape[0]), range(shape[1])
        samplers = [
            optuna.samplers.TPESampler(seed=int(seed))
            for seed in generator.integers(2**31, size=searches)
        ]
        self._studies = [optuna.create_study(sampler=s, direction="maximize") for s in samplers]

    def ask(self) -> Question:
        """What each study suggests."""
        self._trials = [study.ask() for study in self._studies]
        cells = [
            [trial.suggest_categorical(str(edge), self._choices) for edge in self._edges]
            for trial in self._trials
        ]
        return Question(np.array(cells, dtype=np.int64))

    def tell(self, values: Values) -> None:
        """The value of the suggestion, to each study."""
        for study, trial, value in zip(self._studies, self._trials, values.tolist(), strict=True):
            study.tell(trial, value)
