"""The paper's Figure 2, from the operator: `python -m bench.figure2 [--out PATH]`.

A: the norm of the gradient that reaches the logits as β converges, for several s (Eq. 8). With s
off it vanishes with the saturation; with s >> 1 it is the same until then, and lives on at 1/(st).
B: the entropy of β along equidistant decay points of the exponential (ETS, Eqs 11, 12) and the
linear (LTS) schedule. Logits have the size that DARTS initialises them with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from darts.methods.schedules import ets, lts
from snsoftmax import sn_softmax

EXPECTATION = 4e-4  # E(a) of 1e-3 N(0, 1) over positive a: section 2.2
ROWS, COUNT = 64, 5
START, TARGET, POINTS = 1.0, 1e-4, 50


def logits() -> torch.Tensor:
    """Draw α as DARTS initialises it: [ROWS, COUNT], float64."""
    generator = torch.Generator().manual_seed(0)
    return 1e-3 * torch.randn(ROWS, COUNT, generator=generator, dtype=torch.float64)


def gradient_norms(temperatures: np.ndarray, scale: float | None) -> list[float]:
    """Mean over rows of |dA| for a fixed random gradient of β, at each temperature."""
    a = logits().requires_grad_()
    grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=a.dtype)
    norms = []
    for t in temperatures:
        (d,) = torch.autograd.grad(sn_softmax(a, float(t), scale=scale), a, grad)
        norms.append(d.norm(dim=-1).mean().item())
    return norms


def entropies(temperatures: list[float]) -> list[float]:
    """Mean entropy of softmax(A/t) at each temperature, in nats (Eq. 13)."""
    a = logits()
    return [
        sn_softmax(a, t, scale=None, return_entropy=True)[1].mean().item() for t in temperatures
    ]


def draw_saturation(axes: Axes) -> None:
    """Panel A."""
    temperatures = np.geomspace(1.0, 1e-7, 200)
    for scale, colour in (
        (None, "#24292f"),
        (10.0, "#d1620a"),
        (100.0, "#0b62a4"),
        (1000.0, "#2b8a5a"),
    ):
        label = "softmax" if scale is None else f"s = {scale:g}"
        style = "--" if scale is None else "-"
        norms = gradient_norms(temperatures, scale)
        axes.plot(temperatures, norms, style, color=colour, label=label, linewidth=1.6)
    axes.set(xscale="log", yscale="log", xlabel="temperature t", ylabel="|gradient of A|")
    axes.set_ylim(1e-3, None)
    axes.invert_xaxis()
    axes.set_title("A. Gradient as β saturates", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def draw_schedules(axes: Axes) -> None:
    """Panel B."""
    schedules = {
        "ETS": (ets(START, TARGET, POINTS, EXPECTATION), "#0b62a4"),
        "LTS": (lts(START, TARGET, POINTS), "#d1620a"),
    }
    for name, (temperatures, colour) in schedules.items():
        axes.plot(entropies(temperatures), color=colour, label=name, linewidth=1.6)
    axes.set(xlabel="decay point n", ylabel="mean entropy of β (nats)", ylim=(0, None))
    axes.set_title("B. Entropy along a schedule", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    """Draw both panels."""
    parser = argparse.ArgumentParser(prog="python -m bench.figure2", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/figure2.png"))
    options = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    draw_saturation(left)
    draw_schedules(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150)
    print(options.out)


if __name__ == "__main__":
    main()
