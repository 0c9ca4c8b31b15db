"""Differentiable architecture search on one fast supernet."""

from darts.genotype import Genotype, genotype_string
from darts.network import build_network
from darts.spaces import SPACES, Space, get_space
from darts.supernet import Supernet, build_supernet

__all__ = [
    "SPACES",
    "Genotype",
    "Space",
    "Supernet",
    "build_network",
    "build_supernet",
    "genotype_string",
    "get_space",
]
