"""Temperature schedules as pure functions: ETS (Eqs 10-12), LTS, EDD (Eqs 13-15), PCD and LPCD.

A temperature t appears in softmax(a/t), so equal steps of t are very unequal steps of β. ETS takes
equal steps of exp(E(a)/t) instead. EDD decides each step from the entropy that β still has; PCD and
LPCD repeat a fixed list in cycles. Numbers named "released code" are those of the authors'
repository (chaoji90/PCDEDD), which differs from the paper's text in places; both are offered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

INITIAL_EXPECTATION = 3.99e-4
"""E(a) for a ~ N(0, 1e-6): the paper's E(max(a, 0)) = 1e-3·√(2/π)/2, as its code rounds it."""


def ets_levels(start: float, target: float, points: int, expectation: float) -> list[float]:
    """Decay points L of Eq. 11, equally spaced in exp(E(a)/t).

    Args:
        start: first temperature t0 > 0.
        target: last temperature tN, 0 < tN < t0.
        points: number of decay points N >= 1; the list has N + 1 entries.
        expectation: E(a) > 0 over the positive architecture parameters.

    Returns:
        [exp(E(a)/t0), ..., exp(E(a)/tN)], increasing.
    """
    _check_range(start, target, points)
    _check_positive("expectation", expectation)
    first, last = math.exp(expectation / start), math.exp(expectation / target)
    return [first + n * (last - first) / points for n in range(points + 1)]


def level_temperature(level: float, expectation: float) -> float:
    """Temperature of one decay point, t = E(a)/ln(level) (Eq. 12); positive for level > 1."""
    _check_positive("expectation", expectation)
    if not level > 1:
        raise ValueError(
            f"level must be above 1 for a positive temperature (Eq. 12), not {level!r}"
        )
    return expectation / math.log(level)


def ets(start: float, target: float, points: int, expectation: float) -> list[float]:
    """Exponential temperature schedule: the N + 1 temperatures of Eqs 11 and 12, from t0 to tN."""
    return [
        level_temperature(level, expectation)
        for level in ets_levels(start, target, points, expectation)
    ]


def lts(start: float, target: float, points: int) -> list[float]:
    """Linear temperature schedule: N + 1 equally spaced temperatures from t0 to tN."""
    _check_range(start, target, points)
    return [start + n * (target - start) / points for n in range(points + 1)]


@dataclass(frozen=True)
class EDDState:
    """What entropy-based dynamic decay carries from one update to the next."""

    strength: float = 0.0
    """d of Eq. 14; zero before the first update."""
    updates: int = 0
    """k of Eq. 15: how many updates have been made."""
    temperature: float = 1.0
    """t of Eq. 15; t0 before the first update."""


def edd_update(
    state: EDDState,
    entropy: float,
    *,
    lam: float,
    expectation: float,
    start_level: float = 1.0,
    momentum: float = 0.5,
) -> EDDState:
    """One update of EDD: d = λ(1-ρ)·E(H) + ρ·d (Eq. 14), then t = E(a)/ln(t0_exp + k·d) (Eq. 15).

    Args:
        state: the state before the update.
        entropy: E(H(β)) of Eq. 13, in nats (the released code on nb201: its sum over edges).
        lam: λ > 0, the only hyper-parameter that the paper tunes.
        expectation: E(a) > 0 over the positive architecture parameters.
        start_level: t0_exp = exp(E(a)/t0); the released code uses exactly 1.
        momentum: ρ, 0.5 in the paper.

    Returns:
        The state after the update. An entropy of zero that has always been zero leaves the
        temperature where it was: Eq. 15 would divide by ln(1) = 0.
    """
    _check_positive("lam", lam)
    strength = lam * (1 - momentum) * entropy + momentum * state.strength
    updates = state.updates + 1
    level = start_level + updates * strength
    temperature = level_temperature(level, expectation) if level > 1 else state.temperature
    return EDDState(strength, updates, temperature)


@dataclass(frozen=True)
class EDDPlan:
    """On which epochs (counted from 0) EDD updates its temperature."""

    warmup: int
    """Epochs before the first update, at t0."""
    interval: int
    """After the first, an update on every multiple of this."""
    dense_from: int
    """From this epoch on there is an update every epoch."""
    dense_factor: float
    """λ is multiplied by this from `dense_from` on."""

    def factor(self, epoch: int) -> float:
        """What λ is multiplied by in the update before `epoch`; 0 where there is none."""
        if epoch < self.warmup:
            return 0.0
        if epoch >= self.dense_from:
            return self.dense_factor
        return 1.0 if epoch == self.warmup or epoch % self.interval == 0 else 0.0

    @classmethod
    def paper(cls, epochs: int, warmup: int = 1) -> EDDPlan:
        """Algorithm 2: one epoch at t0, then an update every epoch."""
        return cls(warmup, interval=1, dense_from=epochs, dense_factor=1.0)

    @classmethod
    def released_code(cls, epochs: int, warmup: int) -> EDDPlan:
        """Every 5 of 50 epochs, from epoch 40 each one with λ doubled; in proportion otherwise."""
        dense_from = max(min(round(0.8 * epochs), epochs - 1), warmup)
        return cls(warmup, max(1, round(0.1 * epochs)), dense_from, dense_factor=2.0)


def cyclic(
    levels: Sequence[float], final: Sequence[float], epochs: int, warmup: int
) -> list[float]:
    """Temperatures of a periodic decay: down and up `levels` in cycles, then `final` once.

    Args:
        levels: the falling half of a cycle, h + 1 temperatures; the cycle has 2h epochs.
        final: temperatures of the last len(final) epochs, falling all the way.
        epochs: length of the search.
        warmup: epochs at the start that stay at levels[0].

    Returns:
        One temperature per epoch. A search shorter than `final` gets the beginning of `final`.
    """
    cycle = [*levels, *levels[-2:0:-1]]
    cycling = max(0, epochs - len(final))
    head = [levels[0] if epoch < warmup else cycle[epoch % len(cycle)] for epoch in range(cycling)]
    return head + list(final[: epochs - cycling])


def pcd(epochs: int, *, strength: float, half_cycle: int = 5, warmup: int = 5) -> list[float]:
    """Periodic cyclic decay: ETS down and up in cycles, then one full descent, one entry an epoch.

    As in the released code: d = 0.11 on NB201 and the DARTS space, cycles of ten epochs, and for
    the last ten epochs t = E(a)/ln(1 + n·d), n = 1 … 10.
    """
    _check_positive("strength", strength)
    points = range(1, 2 * half_cycle + 1)
    descent = [level_temperature(1 + n * strength, INITIAL_EXPECTATION) for n in points]
    return cyclic([1.0, *descent[:half_cycle]], descent, epochs, warmup)


def lpcd(epochs: int, *, target: float, half_cycle: int = 5, warmup: int = 0) -> list[float]:
    """PCD with linear steps: 1 to `target` in cycles, then to target/2 in one full descent."""
    final = lts(1.0, target / 2, 2 * half_cycle)[1:]
    return cyclic(lts(1.0, target, half_cycle), final, epochs, warmup)


def linear(start: float, end: float, epoch: int, epochs: int) -> float:
    """Value at `epoch` of a line from `start` (epoch 0) to `end` (the last epoch, epochs - 1)."""
    return start if epochs <= 1 else start + (end - start) * epoch / (epochs - 1)


def _check_range(start: float, target: float, points: int) -> None:
    if not 0 < target < start:
        raise ValueError(f"target must lie between 0 and start ({start!r}), not {target!r}")
    if points < 1:
        raise ValueError(f"points must be at least 1, not {points!r}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")
