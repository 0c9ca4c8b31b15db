"""Differentiable architecture search on one fast supernet."""

from darts.networks.genotype import Genotype, genotype_string
from darts.networks.network import build_network
from darts.recipes import configure
from darts.spaces import SPACES, Cell, Space, get_space
from darts.supernet import Supernet, build_supernet
from darts.training.search import Callback, Result, Search, search

__all__ = [
    "SPACES",
    "Callback",
    "Cell",
    "Genotype",
    "Result",
    "Search",
    "Space",
    "Supernet",
    "build_network",
    "build_supernet",
    "configure",
    "genotype_string",
    "get_space",
    "search",
]
