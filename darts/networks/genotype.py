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
        """Read the text of an architecture in the official form of any skeleton.

        Raises ValueError where ``text`` is none.
        """
        text = text.strip()
        for name, skeleton in SKELETONS.items():
            if skeleton.reads(text):
                return cls(name, skeleton.read(text))
        raise ValueError(
            f"genotype {text!r} must be an NB201 string like '|nor_conv_3x3~0|+...', a DARTS tuple "
            "like 'Genotype(normal=[...], ...)', a chain's layers like 'mobilenet(...)', a "
            "TransNAS-Bench-101 string like '64-41414-3_33_333', or a NAS-Bench-101 cell like "
            '{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}'
        )


def genotype_string(genotype: Genotype) -> str:
    """The official text of ``genotype``."""
    return str(genotype)
