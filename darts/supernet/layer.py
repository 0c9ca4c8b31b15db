"""A layer of a chain in the supernet: all its candidates, weighed by its row of β."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from darts.networks.layers import LAYERS, InvertedResidual
from darts.networks.normalization import EPS, MOMENTUM, BatchNorm2d
from darts.networks.operations import drop_path
from darts.networks.table import LayerPlace
from darts.spaces.table import Cell
from darts.supernet.branches import Views
from darts.supernet.mixture import SharedMap, Summand, mix
from darts.supernet.normalized_depthwise import normalized_depthwise
from darts.supernet.plan import Live
from darts.supernet.pointwise import pointwise
from snsoftmax.depthwise import depthwise


class SearchLayer(nn.Module):
    """One layer of the supernet: out = Σ_k β_k·o_k(x), as FBNet's and ProxylessNAS's.

    An inverted residual ends in a batch normalisation, to which its input may be added. So the sum
    is one mixture: of the normalised maps, each with its β, and of the input, with the β of all
    that add it or pass it on. ``drop_path`` drops the normalised maps' part, for a sample, where
    the input is in the sum; elsewhere nothing would be left.

    Args:
        name: the cell type.
        table: its layers.
        place: of this one.
        track: keep running batch-norm statistics.
    """

    def __init__(self, name: str, table: Cell, place: LayerPlace, track: bool) -> None:
        super().__init__()
        self.name = name
        self.row = [source for source, _ in table.edges].index(place.number)
        self.place = place
        self.drop_path = 0.0
        self.candidates = nn.ModuleList(
            LAYERS[candidate](place.inputs, place.outputs, place.stride, False, track)
            for candidate in table.candidates[self.row]
        )
        self._kept: dict[tuple[Hashable, ...], Tensor] = {}

    def forward(
        self,
        inputs: Sequence[Tensor],
        weights: Mapping[str, Tensor],
        live: Mapping[str, Live] | None,
        shared: object = None,
    ) -> Tensor:
        """The map that leaves, of the one that enters; the rest as `Supernet` has it.

        Nothing is ``shared``: no other layer reads this one's row of β.
        """
        (x,) = inputs
        beta = weights[self.name][self.row]
        computed = live[self.name][self.row] if live else (True,) * len(beta)
        modules = [m for m, is_live in zip(self.candidates, computed, strict=True) if is_live]
        normalized = [self._normalized(m, x) for m in modules if isinstance(m, InvertedResidual)]
        plain = [m(x) for m in modules if not isinstance(m, (InvertedResidual, nn.Identity))]
        adds_input = any(map(_adds_input, modules))
        maps = [*normalized, *(Summand(SharedMap.of(y)) for y in [*plain, *[x] * adds_input])]
        # Not a product of matrices, which autocast would make in bfloat16.
        shares = (beta[:, None] * self._shares(computed, beta)).sum(0)
        if not maps:  # a zero map, and a zero gradient of β rather than none
            like = x[:, :1, :: self.place.stride, :: self.place.stride]
            return torch.zeros_like(like).repeat(1, self.place.outputs, 1, 1) + 0 * beta.sum()
        if not (self.training and self.drop_path > 0.0 and normalized and adds_input):
            return mix(maps, shares, self.training)
        k = len(normalized)
        dropped = drop_path(mix(maps[:k], shares[:k], True), self.drop_path)
        return dropped + mix(maps[k:], shares[k:], True)

    def _shares(self, computed: tuple[bool, ...], beta: Tensor) -> Tensor:
        """Which β counts for which map, [operations, maps]: inverted residuals, others, input."""
        key = computed, beta.device, beta.dtype
        if key not in self._kept:
            live = [(k, m) for k, m in enumerate(self.candidates) if computed[k]]
            normalized = [[k] for k, m in live if isinstance(m, InvertedResidual)]
            plain = [[k] for k, m in live if not isinstance(m, (InvertedResidual, nn.Identity))]
            through = [k for k, m in live if _adds_input(m)]
            columns = [*normalized, *plain, *[through] * bool(through)]
            found = torch.zeros(len(computed), len(columns))
            for place, rows in enumerate(columns):
                found[rows, place] = 1.0
            self._kept[key] = found.to(beta)
        return self._kept[key]

    def _normalized(self, layer: InvertedResidual, x: Tensor) -> Summand:
        """The layer up to its last normalisation, which the mixture makes."""
        y = pointwise(x, layer.expand.weight, 1)
        weight, first = layer.depthwise.weight, layer.expand_norm
        if self.place.stride == 1:
            training = self.training or first.running_mean is None
            z = normalized_depthwise(y, [weight], _running(first), training, MOMENTUM, EPS)
        else:
            (z,) = depthwise(first(y).relu(), [weight], self.place.stride, [1])
        y = pointwise(layer.depthwise_norm(z).relu(), layer.project.weight, 1)
        last = layer.project_norm
        mean, var = last.running_mean, last.running_var
        return Summand(SharedMap.of(y), True, 0, self.place.outputs, mean, var)

    def learnt(self) -> Iterator[tuple[str, int, list[nn.Parameter]]]:
        """See `Source.learnt`, of one edge."""
        for module in self.candidates:
            yield type(module).__name__, 1, list(module.parameters())

    def views(self, of: Callable[[Tensor], Tensor]) -> Views:
        """Nothing: the layer is a conventional one, with the names of one."""
        return {}


def _adds_input(module: nn.Module) -> bool:
    """Whether the layer's input is a part of what a candidate gives."""
    return isinstance(module, nn.Identity) or getattr(module, "residual", False) is True


def _running(norm: BatchNorm2d) -> tuple[list[Tensor], list[Tensor]]:
    """Running statistics as the fused operators take them."""
    if norm.running_mean is None or norm.running_var is None:
        return [], []
    return [norm.running_mean], [norm.running_var]
