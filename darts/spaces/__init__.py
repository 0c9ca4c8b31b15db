"""Search spaces as data."""

from darts.errors import UserError
from darts.plugins import imported
from darts.spaces.mobilenet import MOBILENET, MOBILENET_32
from darts.spaces.nasnet import DARTS, DARTS_WITHOUT_NONE, S1, S2, S3, S4
from darts.spaces.nats_sizes import NATS_SIZES
from darts.spaces.nb201 import NB201, NB201_WITHOUT_NONE
from darts.spaces.one_shot import ONE_SHOT_1, ONE_SHOT_2, ONE_SHOT_3
from darts.spaces.table import Cell, Layers, LayerWidths, NodeOperations, Sources, Space
from darts.spaces.transnas import TRANSNAS

SPACES = {
    space.name: space
    for space in (
        NB201,
        NB201_WITHOUT_NONE,
        DARTS,
        DARTS_WITHOUT_NONE,
        S1,
        S2,
        S3,
        S4,
        MOBILENET,
        MOBILENET_32,
        TRANSNAS,
        NATS_SIZES,
        ONE_SHOT_1,
        ONE_SHOT_2,
        ONE_SHOT_3,
    )
}

__all__ = [
    "DARTS",
    "DARTS_WITHOUT_NONE",
    "MOBILENET",
    "MOBILENET_32",
    "NATS_SIZES",
    "NB201",
    "NB201_WITHOUT_NONE",
    "ONE_SHOT_1",
    "ONE_SHOT_2",
    "ONE_SHOT_3",
    "S1",
    "S2",
    "S3",
    "S4",
    "SPACES",
    "TRANSNAS",
    "Cell",
    "LayerWidths",
    "Layers",
    "NodeOperations",
    "Sources",
    "Space",
    "enter",
    "get_space",
]


def get_space(name: str | Space) -> Space:
    """The space called ``name``, or ``MODULE:NAME`` for one that MODULE puts into `SPACES`.

    A space is itself.

    Raises:
        UserError: there is no such space or module; lists the names there are.
    """
    if isinstance(name, Space):
        return name
    try:
        return SPACES[imported(name, "space")]
    except KeyError:
        raise UserError(f"space={name!r} is unknown; choose from {', '.join(SPACES)}") from None


def enter(space: Space) -> str:
    """Put a space into `SPACES`, in place of one of its name; gives the name."""
    SPACES[space.name] = space
    return space.name
