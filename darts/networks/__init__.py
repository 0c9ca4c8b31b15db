"""Discrete architectures, and the networks built from them, by the operations of the papers."""

from darts.networks.chain import Chain
from darts.networks.nb101 import NB101
from darts.networks.stacked import Stacked
from darts.networks.transnas import TransNAS
from darts.networks.two_inputs import TwoInputs
from darts.networks.widths import Widths

__all__ = ["NB101", "Chain", "Stacked", "TransNAS", "TwoInputs", "Widths"]
