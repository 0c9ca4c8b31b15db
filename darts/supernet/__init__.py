"""The supernet: all candidates of all edges in one fast network."""

from darts.supernet.network import Supernet, build_supernet
from darts.supernet.plan import Live, counting, live_operations

__all__ = ["Live", "Supernet", "build_supernet", "counting", "live_operations"]
