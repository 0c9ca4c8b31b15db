"""Chains of inverted residuals, after ProxylessNAS (Cai, Zhu, Han: ICLR 2019).

Twenty-one layers, each with a kernel of 3, 5 or 7 and an expansion of 3 or 6; those that keep width
and resolution may be left out. Widths, depths and strides are those of the authors' code
(mit-han-lab/proxylessnas, search/imagenet_arch_search.py) at C = 16, where maps end with a 32nd of
the images' side. "mobilenet-32", ours, is for small images: stem and first stage keep the
resolution, and an 8th is left.
"""

from darts.networks.chain import MOBILENET as LARGE
from darts.networks.chain import MOBILENET_32 as SMALL
from darts.networks.chain import Chain
from darts.networks.layers import LAYERS
from darts.spaces.table import Layers, Space

CANDIDATES = tuple(name for name in LAYERS if name != "skip_connect")


def chain(around: Chain, candidates: tuple[str, ...] = CANDIDATES) -> Space:
    """The space of a chain in `darts.networks.table.SKELETONS`, under its name.

    Every layer has the candidates, and `skip_connect` where it keeps width and resolution.
    """
    cells = {
        group: Layers(
            1, edges, ((*candidates, *["skip_connect"] * (group == "keeping")),) * len(edges)
        )
        for group, edges in around.groups.items()
    }
    return Space(around.name, around.name, cells)


MOBILENET = chain(LARGE)
MOBILENET_32 = chain(SMALL)
