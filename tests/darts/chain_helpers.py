"""A chain of layers that is small enough to be searched in a test."""

from darts.networks.chain import Chain, Stage
from darts.networks.table import enter
from darts.spaces.mobilenet import chain

SHAPE = enter(
    Chain("tiny-chain", stem=1, first=1, stride=1, stages=(Stage(1, 1, 1), Stage(2, 3, 2)), last=4)
)
"""Four layers, of which the second changes width and resolution."""
TINY = chain(SHAPE)
