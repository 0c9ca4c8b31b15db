"""The supernet: all candidates of all edges in one fast network."""

from darts.supernet.network import Supernet, build_supernet
from darts.supernet.plan import Live, live_operations

__all__ = ["Live", "Supernet", "build_supernet", "live_operations"]
