"""Search spaces as data."""

from darts.errors import UserError
from darts.plugins import imported
from darts.spaces.nasnet import DARTS, DARTS_WITHOUT_NONE, S1, S2, S3, S4
from darts.spaces.nb201 import NB201, NB201_WITHOUT_NONE
from darts.spaces.table import Cell, Space

SPACES = {
    space.name: space
    for space in (NB201, NB201_WITHOUT_NONE, DARTS, DARTS_WITHOUT_NONE, S1, S2, S3, S4)
}

__all__ = [
    "DARTS",
    "DARTS_WITHOUT_NONE",
    "NB201",
    "NB201_WITHOUT_NONE",
    "S1",
    "S2",
    "S3",
    "S4",
    "SPACES",
    "Cell",
    "Space",
    "get_space",
]


def get_space(name: str) -> Space:
    """The space called ``name``, or ``MODULE:NAME`` for one that MODULE puts into `SPACES`.

    Raises:
        UserError: there is no such space or module; lists the names there are.
    """
    try:
        return SPACES[imported(name, "space")]
    except KeyError:
        raise UserError(f"space={name!r} is unknown; choose from {', '.join(SPACES)}") from None
