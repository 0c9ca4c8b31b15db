"""The stand-alone network of a genotype."""

from __future__ import annotations

from torch import nn

from darts.networks.genotype import Genotype
from darts.networks.table import SKELETONS, NetworkSizes, names_with


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
    ``large``: for images of ImageNet's size. Not every skeleton has either.
    ``colours``: of the images. Raises ValueError on a malformed genotype or a size below 1.
    """
    if isinstance(genotype, str):
        genotype = Genotype.parse(genotype)
    skeleton = SKELETONS[genotype.skeleton]
    sizes = NetworkSizes(channels, cells, classes, colours)
    skeleton.check_sizes(sizes)
    for name, asked, feature in (
        ("auxiliary", auxiliary, "auxiliary_head"),
        ("large", large, "large_images"),
    ):
        if asked and not getattr(skeleton, feature):
            allowed = names_with(feature)
            raise ValueError(f"{name}=True needs a genotype of {allowed}, not of {skeleton.name}")
    return skeleton.network(genotype.cells, sizes, auxiliary=auxiliary, large=large)
