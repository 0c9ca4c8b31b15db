"""Why an operation takes over: what moves α in one search, operation by operation.

    python -m bench.takeover --source SET.npz [--set options.joint_clip=true ...]

Runs a search and keeps, as means over an epoch's arch steps and per edge and operation: β; dL/dβ;
the parts of dL/dα that come from the sharp softmax and from the smooth one (Eq. 8); and Adam's
normalised step m/√v. Writes them as JSON and draws their means over the edges.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor

mpl.use("Agg")
import matplotlib.pyplot as plt

from bench.timing import RESULTS, machine, write_json
from darts import Search, configure
from darts.config import nested
from darts.data import Batch
from darts.results.figures import APPEARANCE, PALETTE

PANELS = {
    "beta": "β",
    "beta_gradient": "−dL/dβ, less its mean over the edge",
    "sharp": "−dL/dα, sharp part",
    "smooth": "−dL/dα, smooth part",
    "adam": "Adam's step, −m/√v",
}


def jacobian_product(alpha: Tensor, t: float, g: Tensor) -> Tensor:
    """J_t g / t of softmax(α/t)."""
    p = torch.softmax(alpha / t, -1)
    return p * (g - (p * g).sum(-1, keepdim=True)) / t


class Watched(Search):
    """A search that keeps what moves α on NAS-Bench-201's one cell."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.sums: dict[str, Tensor] = {}
        self.seen: dict[str, list[list[list[float]]]] = defaultdict(list)
        self._gradients: list[Tensor] = []
        weights = self.method.weights

        def watched() -> Any:
            found = weights()
            for beta in found.values():
                if beta.requires_grad:
                    beta.register_hook(self._gradients.append)
            return found

        self.method.weights = watched  # type: ignore[method-assign]

    def step(self, weight_batch: Batch, arch_batch: Batch) -> Tensor:
        """The search's step, watched."""
        self._gradients.clear()
        alpha = self.method.logits["cell"].detach().clone()
        t = float(self.method.temperature)
        with torch.no_grad():
            beta = self.method.probabilities()["cell"]
        out = super().step(weight_batch, arch_batch)
        g = self._gradients[-1]  # the arch step's: the weight step comes first
        smooth = torch.zeros_like(g)
        if self.method.smoothed("cell"):  # type: ignore[attr-defined]
            settings = self.method.options
            scale, fixed = settings.scale, settings.smooth_temperature  # type: ignore[attr-defined]
            if scale or fixed:
                smooth = jacobian_product(alpha, fixed or t * (scale or 0), g)
        state = self.method.optimizer.state[self.method.logits["cell"]]
        share = [1 - b ** float(state["step"]) for b in (0.5, 0.999)]
        adam = (state["exp_avg"] / share[0]) / ((state["exp_avg_sq"] / share[1]).sqrt() + 1e-8)
        for name, value in {
            "beta": beta,
            "beta_gradient": -(g - g.mean(-1, keepdim=True)),
            "sharp": -jacobian_product(alpha, t, g),
            "smooth": -smooth,
            "adam": -adam,
        }.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        return out

    def record(self, losses: Tensor) -> dict[str, Any]:
        """The epoch's record; closes its means."""
        for name, total in self.sums.items():
            self.seen[name].append((total / len(losses)).tolist())
        self.sums.clear()
        return super().record(losses)


Means = Mapping[str, Sequence[Sequence[Sequence[float]]]]
"""Of each quantity by epoch, edge and operation."""


def draw(operations: Sequence[str], seen: Means, path: Path, title: str) -> None:
    """One panel a quantity, one line an operation, over the epochs."""
    figure, axes = plt.subplots(len(PANELS), 1, figsize=(7, 11), sharex=True)
    for axis, (name, label) in zip(axes, PANELS.items(), strict=True):
        means = torch.tensor(seen[name]).mean(1)
        for column, operation in enumerate(operations):
            short = APPEARANCE.get(operation, (operation, ""))[0]
            axis.plot(means[:, column], color=PALETTE[column], label=short)
        axis.set_title(label, loc="left", fontsize=9)
        if name != "beta":
            axis.axhline(0, color="#888888", linewidth=0.5)
    axes[0].legend(fontsize=8, ncol=5)
    axes[-1].set_xlabel("epoch")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Search, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--source", default="digits")
    parser.add_argument("--method", default="edd")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "takeover.json")
    options = parser.parse_args()
    tree: dict[str, Any] = {
        "method": options.method,
        "epochs": options.epochs,
        "seed": options.seed,
        "data.source": options.source,
        "data.batch_size": options.batch_size,
        "supernet.channels": options.channels,
        "supernet.cells": options.cells,
        **dict(item.split("=", 1) for item in options.set),
    }
    search = Watched(configure(**nested(tree)))
    result = search.run()
    temperatures = [record["temperature"] for record in result.history]
    record = {"settings": tree, "genotype": str(result.genotype), "temperature": temperatures}
    write_json(options.out, {**machine(torch.device("cpu")), **record, **search.seen})
    title = f"{options.method} {' '.join(options.set)}, seed {options.seed}\n{result.genotype}"
    operations = search.space.cells["cell"].candidates[0]
    draw(operations, search.seen, options.out.with_suffix(".png"), title)
    print(title)


if __name__ == "__main__":
    main()
