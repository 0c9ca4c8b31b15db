"""Black-box searches: what a gradient method has to beat, on the benchmark's table or trained.

Each searcher is one file, and many independent searches at once; see `Searcher`.
"""

from darts.baselines.bananas import Bananas
from darts.baselines.evolution import RegularizedEvolution
from darts.baselines.local_search import LocalSearch
from darts.baselines.random_search import RandomSearch
from darts.baselines.searcher import MakeSearcher, Question, Searcher
from darts.baselines.successive_halving import SuccessiveHalving
from darts.baselines.tpe import TPE

SEARCHERS: dict[str, MakeSearcher] = {
    "random": RandomSearch,
    "evolution": RegularizedEvolution,
    "local": LocalSearch,
    "bananas": Bananas,
    "tpe": TPE,
    "halving": SuccessiveHalving,
}
"""Name on the command line → (shape of a cell, searches, generator) → searcher."""

__all__ = [
    "SEARCHERS",
    "TPE",
    "Bananas",
    "LocalSearch",
    "MakeSearcher",
    "Question",
    "RandomSearch",
    "RegularizedEvolution",
    "Searcher",
    "SuccessiveHalving",
]
