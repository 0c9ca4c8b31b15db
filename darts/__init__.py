"""Differentiable architecture search on one fast supernet."""

from darts import _requirements  # noqa: F401  first: says what is missing
from darts.config import SearchConfig, setting
from darts.errors import UserError
from darts.methods import METHODS, Method, get_method, register
from darts.networks.genotype import Genotype, genotype_string
from darts.networks.network import build_network
from darts.recipes import configure
from darts.spaces import SPACES, Cell, Space, get_space
from darts.supernet import Supernet, build_supernet
from darts.training.evaluate import Evaluation, evaluate
from darts.training.evaluation_config import EvaluationConfig, configure_evaluation
from darts.training.export import export, load_network
from darts.training.progress import Progress
from darts.training.search import Callback, Result, Search, search
from snsoftmax import __version__

__all__ = [
    "METHODS",
    "SPACES",
    "Callback",
    "Cell",
    "Evaluation",
    "EvaluationConfig",
    "Genotype",
    "Method",
    "Progress",
    "Result",
    "Search",
    "SearchConfig",
    "Space",
    "Supernet",
    "UserError",
    "__version__",
    "build_network",
    "build_supernet",
    "configure",
    "configure_evaluation",
    "evaluate",
    "export",
    "genotype_string",
    "get_method",
    "get_space",
    "load_network",
    "register",
    "search",
    "setting",
]
