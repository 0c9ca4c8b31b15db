"""The stand-alone network of a genotype."""

from __future__ import annotations

from torch import nn

from darts.networks.genotype import Genotype
from darts.networks.table import SKELETONS, NetworkSizes


def build_network(
    genotype: Genotype | str,
    *,
    channels: int,
    cells: int,
    classes: int,
    auxiliary: bool = False,
    large: bool = False,
    colours: int = 3,
) -> nn.Module:
    """The stand-alone network of ``genotype``, to be trained from scratch.

    ``cells``: per stage for NAS-Bench-201 (5 in the benchmark: 17 cells with the residual blocks)
    and NAS-Bench-101 (3), in all for the DARTS spaces (20 for CIFAR, 14 for ImageNet).
    ``auxiliary``: DARTS's auxiliary head; see `TwoInputNetwork` for what the network then returns.
    ``large``: for images of ImageNet's size. Both are for genotypes of the DARTS spaces.
    ``colours``: of the images. Raises ValueError on a malformed genotype or a size below 1.
    """
    if isinstance(genotype, str):
        genotype = Genotype.parse(genotype)
    skeleton = SKELETONS[genotype.skeleton]
    sizes = NetworkSizes(channels, cells, classes, colours)
    skeleton.check_sizes(sizes)
    for name, asked, can in (
        ("auxiliary", auxiliary, skeleton.auxiliary_head),
        ("large", large, skeleton.large_images),
    ):
        if asked and not can:
            raise ValueError(f"{name}=True is for genotypes of the DARTS spaces only")
    return skeleton.network(genotype.cells, sizes, auxiliary=auxiliary, large=large)
