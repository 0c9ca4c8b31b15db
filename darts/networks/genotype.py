"""Discrete architectures and their texts."""

from __future__ import annotations

from dataclasses import dataclass

from darts.networks.table import KEPT_EDGES, SKELETONS, Cells, Choice

__all__ = ["KEPT_EDGES", "Choice", "Genotype", "genotype_string"]


@dataclass(frozen=True)
class Genotype:
    """The choices of each cell type, in the order of the official formats.

    ``skeleton`` is that of the space, a name of `darts.networks.table.SKELETONS`. ``str()`` gives
    the text that is official there, ``Genotype.parse`` reads it, also that of a space with other
    edges.
    """

    skeleton: str
    cells: Cells

    def cell(self, name: str) -> tuple[Choice, ...]:
        """The choices of the cell type ``name``."""
        return dict(self.cells)[name]

    def __str__(self) -> str:
        return SKELETONS[self.skeleton].write(self.cells)

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read an NB201 architecture string, a DARTS ``Genotype(...)`` tuple, or a chain's layers.

        Raises ValueError where ``text`` is none of these.
        """
        text = text.strip()
        for name, skeleton in SKELETONS.items():
            if skeleton.reads(text):
                return cls(name, skeleton.read(text))
        raise ValueError(
            f"genotype {text!r} must be an NB201 string like '|nor_conv_3x3~0|+...' "
            "or a DARTS tuple like 'Genotype(normal=[...], ...)'"
        )


def genotype_string(genotype: Genotype) -> str:
    """The official text of ``genotype``."""
    return str(genotype)
