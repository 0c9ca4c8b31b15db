"""A search under bounds: a term of the arch step, and the check at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darts.budgets.costs import Costs, Sizes, count
from darts.budgets.latency import LatencyTable
from darts.budgets.within import Bound, alive, best_within, cheapest, preferences
from darts.config import BudgetConfig, ConfigError
from darts.errors import UserError
from darts.networks.genotype import KEPT_EDGES, Genotype
from darts.spaces import Space

MOST = 100.0
"""Largest weight of a bound."""
SHOWN = {
    "params": ("{:,.0f} parameters", 1.0),
    "macs": ("{:.2f} M multiply-adds", 1e-6),
    "latency": ("{:.3f} ms a picture", 1.0),
}
"""How a cost is printed, and the factor before."""


def shown(kind: str, value: float) -> str:
    """A cost with its unit."""
    text, factor = SHOWN[kind]
    return text.format(factor * value)


def costs_of(kind: str, config: BudgetConfig, space: Space, sizes: Sizes) -> Costs:
    """One kind of cost of every architecture of a space.

    Raises:
        UserError: latencies are asked for, and the table is missing, of another network or of
            another kind of device.
    """
    if kind != "latency":
        return count(space, sizes, kind)
    if not config.table:
        raise ConfigError(
            "budget.latency needs budget.table, a file that `python -m darts latency` wrote"
        )
    table = LatencyTable.load(Path(config.table))
    measured = table.where.get("device")
    if config.device not in ("", measured):
        raise UserError(
            f"budget.device={config.device!r} is not the device that budget.table was measured "
            f"on, {measured}; measure one: `python -m darts latency --device {config.device}`."
        )
    return table.costs(space, sizes)


class Budget:
    """Bounds on what the network found may cost, whatever the method.

    The expected cost Σ β·cost is a term of each arch step: `pull` adds its gradient, which reaches
    α through the method's own β, times a weight. Weights are in units of the objective's gradient:
    at 1 the term pulls as hard as the loss, whatever the method and its temperature. They start at
    0, and after each epoch a weight moves by log(cost of the network derived now / bound), not
    below 0 (dual ascent), so that it grows while the network is past the bound, and goes when the
    bound no longer presses. `choose` is the check at the end.

    Args:
        space: what is searched.
        config: the bounds.
        sizes: of the network that they are about.
        device: of α.

    Raises:
        UserError: no architecture of the space meets the bounds.
    """

    def __init__(self, space: Space, config: BudgetConfig, sizes: Sizes, device: str) -> None:
        limits = {kind: float(getattr(config, kind)) for kind in SHOWN}
        if config.device not in ("", "cpu", "cuda"):
            raise ConfigError(f"budget.device={config.device!r} must be cpu, cuda or empty")
        for name in ("table", "device"):
            if getattr(config, name) and not limits["latency"]:
                raise ConfigError(f"budget.{name} needs budget.latency, the bound that it is for")
        self.space = space
        self.sizes = sizes
        self.bounds = {
            kind: Bound(costs_of(kind, config, space, sizes), limit)
            for kind, limit in limits.items()
            if limit
        }
        self._check()
        self.weights = torch.zeros(len(self.bounds), device=device)
        """Of each bound; on the device, in one place, so that a recorded step sees it change."""
        self._shares = [
            {cell: (c / b.limit).float().to(device) for cell, c in b.costs.edges.items()}
            for b in self.bounds.values()
        ]
        self._selectable = {
            cell: torch.tensor(
                [[not space.leaves_edges_out or o != "none" for o in r] for r in t.candidates]
            )
            .float()
            .to(device)
            for cell, t in space.cells.items()
        }
        self._incidence = {
            cell: torch.tensor([[target == n for _, target in t.edges] for n in t.nodes])
            .float()
            .to(device)
            for cell, t in space.cells.items()
        }

    def _check(self) -> None:
        """One sentence where nothing can be found."""
        for kind, (costs, limit) in self.bounds.items():
            least = cheapest(self.space, costs)
            if costs.of(self.space, least) > limit:
                raise UserError(
                    f"budget.{kind}={limit:g} cannot be met: the smallest network has "
                    f"{shown(kind, costs.of(self.space, least))}, {least}."
                )
        flat = {cell: torch.zeros(t.shape) for cell, t in self.space.cells.items()}
        if best_within(self.space, flat, list(self.bounds.values())) is None:
            asked = ", ".join(f"budget.{kind}={b.limit:g}" for kind, b in self.bounds.items())
            raise UserError(f"{asked} cannot be met by one network; each of them alone can.")

    def distribution(self, cell: str, beta: Tensor) -> Tensor:
        """How likely each operation is in the architecture, [edges, operations].

        β of those that can be selected, normalised. Where a node keeps two edges, each of those
        that have any β left counts for its share of two.
        """
        mass = beta.clamp(min=0) * self._selectable[cell]
        total = mass.sum(-1, keepdim=True)
        chances = mass / total.clamp(min=torch.finfo(mass.dtype).tiny)
        if not self.space.leaves_edges_out:
            return chances
        incidence = self._incidence[cell]
        living = (incidence @ (total > 0).float()).clamp(min=1)
        return chances * (incidence.T @ (KEPT_EDGES / living).clamp(max=1))

    def expected(self, beta: Mapping[str, Tensor]) -> Tensor:
        """Expected cost on edges over the bound, [bounds]; differentiable in β."""
        chances = {cell: self.distribution(cell, b) for cell, b in beta.items()}
        return torch.stack(
            [
                torch.stack([(share * chances[cell]).sum() for cell, share in shares.items()]).sum()
                for shares in self._shares
            ]
        )

    def pull(
        self, beta: Mapping[str, Tensor], parameters: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        """Gradients of the objective, plus those of the term: a bound's weight times its unit.

        Nothing is read from the device.

        Args:
            beta: the method's own β, computed from `parameters`.
            parameters: what the arch step moves.
            gradients: of the objective, one a parameter.
        """
        size = torch.nn.utils.get_total_norm(gradients)
        for weight, cost in zip(self.weights, self.expected(beta), strict=True):
            own = torch.autograd.grad(
                cost, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            factor = weight * size / torch.nn.utils.get_total_norm(own).clamp(min=1e-20)
            gradients = [g + factor * o for g, o in zip(gradients, own, strict=True)]
        return gradients

    def costs(self, genotype: Genotype) -> dict[str, float]:
        """What an architecture costs, of each kind that has a bound."""
        return {kind: b.costs.of(self.space, genotype) for kind, b in self.bounds.items()}

    def allows(self, genotype: Genotype) -> bool:
        """Whether an architecture meets every bound."""
        return all(cost <= self.bounds[kind].limit for kind, cost in self.costs(genotype).items())

    def adapt(self, genotype: Genotype) -> None:
        """Move the weights by what the network derived now costs."""
        ratios = [c / self.bounds[kind].limit for kind, c in self.costs(genotype).items()]
        self.weights.add_(torch.tensor(ratios, device=self.weights.device).log_()).clamp_(0, MOST)

    def choose(
        self, genotype: Genotype, scores: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Genotype:
        """`genotype` where it meets the bounds and its output depends on its input; else the best
        architecture that does both, by the sum of log β."""
        if self.allows(genotype) and alive(self.space, genotype):
            return genotype
        values = preferences(scores, logits)
        found = best_within(self.space, values, list(self.bounds.values()))
        assert found is not None, "checked before the search began"
        return found

    def record(self, genotype: Genotype) -> dict[str, dict[str, float]]:
        """For the log: cost, bound and weight of each kind."""
        return {
            kind: {"cost": cost, "limit": self.bounds[kind].limit, "weight": float(weight)}
            for (kind, cost), weight in zip(
                self.costs(genotype).items(), self.weights.tolist(), strict=True
            )
        }

    def summary(self, genotype: Genotype) -> str:
        """One line for the terminal."""
        return "; ".join(
            f"{shown(kind, cost)} of {shown(kind, self.bounds[kind].limit)}"
            for kind, cost in self.costs(genotype).items()
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed search needs."""
        return {"weights": self.weights.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`'s result."""
        self.weights.copy_(state["weights"])
