import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darts.methods import schedules
from darts.methods.schedules import EDDPlan, EDDState, edd_update

EXPECTATION = 4e-4


def test_ets_is_the_papers_example() -> None:
    levels = schedules.ets_levels(1.0, 1e-3, 4, EXPECTATION)
    assert levels == pytest.approx([1, 1.123, 1.246, 1.369, 1.492], abs=5e-4)
    temperatures = schedules.ets(1.0, 1e-3, 4, EXPECTATION)
    assert temperatures == pytest.approx([1, 0.00345, 0.0018, 0.00127, 0.001], abs=2e-5)
    assert temperatures[0] == pytest.approx(1.0, rel=1e-9)
    assert temperatures[-1] == pytest.approx(1e-3, rel=1e-9)


def test_lts_is_the_papers_example() -> None:
    assert schedules.lts(1.0, 1e-3, 4) == pytest.approx([1, 0.75, 0.5, 0.25, 0.001], abs=1e-3)


@given(
    target=st.floats(1e-4, 0.5),
    points=st.integers(1, 60),
    expectation=st.floats(1e-5, 1e-2),
)
def test_ets_falls_in_equal_steps_of_the_exponential(
    target: float, points: int, expectation: float
) -> None:
    temperatures = schedules.ets(1.0, target, points, expectation)
    assert all(b < a for a, b in itertools.pairwise(temperatures))
    levels = [math.exp(expectation / t) for t in temperatures]
    step = (levels[-1] - levels[0]) / points
    for n, level in enumerate(levels):
        assert level == pytest.approx(levels[0] + n * step, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedules.ets(1.0, 2.0, 4, EXPECTATION), "target must lie between 0 and start"),
        (lambda: schedules.lts(1.0, 0.1, 0), "points must be at least 1, not 0"),
        (lambda: schedules.ets(1.0, 0.1, 4, -1.0), r"expectation must be positive, not -1\.0"),
        (lambda: schedules.level_temperature(1.0, EXPECTATION), "level must be above 1"),
        (lambda: edd_update(EDDState(), 1.0, lam=0.0, expectation=1.0), "lam must be positive"),
    ],
)
def test_impossible_schedules_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_edd_follows_equations_14_and_15() -> None:
    state = EDDState()
    strength = 0.0
    for k, entropy in enumerate([1.6, 1.5, 1.1, 0.4, 0.02], start=1):
        strength = 0.24 * 0.5 * entropy + 0.5 * strength
        state = edd_update(state, entropy, lam=0.24, expectation=EXPECTATION, start_level=1.0004)
        assert state.strength == pytest.approx(strength, rel=1e-12)
        assert state.temperature == pytest.approx(
            EXPECTATION / math.log(1.0004 + k * strength), rel=1e-12
        )
        assert state.updates == k


def test_edd_without_entropy_keeps_its_temperature() -> None:
    state = edd_update(EDDState(temperature=0.5), 0.0, lam=0.24, expectation=EXPECTATION)
    assert state.temperature == 0.5


def test_released_codes_updates_fall_where_its_loop_has_them() -> None:
    plan = EDDPlan.released_code(50, warmup=10)
    factors = {epoch: plan.factor(epoch) for epoch in range(50) if plan.factor(epoch)}
    assert factors == {10: 1, 15: 1, 20: 1, 25: 1, 30: 1, 35: 1} | dict.fromkeys(range(40, 50), 2)


def test_the_papers_updates_come_every_epoch_after_the_first() -> None:
    plan = EDDPlan.paper(50)
    assert [plan.factor(epoch) for epoch in range(50)] == [0.0] + [1.0] * 49


@pytest.mark.parametrize("epochs", [1, 2, 5, 10, 24, 100])
def test_edd_reaches_its_dense_part_at_any_length(epochs: int) -> None:
    plan = EDDPlan.released_code(epochs, warmup=round(0.2 * epochs))
    assert plan.factor(epochs - 1) == 2.0


def test_pcd_repeats_its_cycle_and_ends_in_one_descent() -> None:
    temperatures = schedules.pcd(50, strength=0.11)
    fall = [1.0] + [3.99e-4 / math.log(1 + 0.11 * n) for n in range(1, 6)]
    assert temperatures[:5] == [1.0] * 5
    assert temperatures[10:20] == pytest.approx(fall + fall[-2:0:-1])
    assert temperatures[10:20] == temperatures[20:30] == temperatures[30:40]
    assert temperatures[40:] == pytest.approx(
        [3.99e-4 / math.log(1 + 0.11 * n) for n in range(1, 11)]
    )


def test_lpcd_is_linear() -> None:
    temperatures = schedules.lpcd(50, target=1e-3)
    assert temperatures[:6] == pytest.approx([1, 0.8002, 0.6004, 0.4006, 0.2008, 0.001])
    assert temperatures[6] == pytest.approx(0.2008)
    assert temperatures[-1] == pytest.approx(5e-4)
    assert temperatures[40] == pytest.approx(1 - (1 - 5e-4) / 10)


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 11, 50, 73])
def test_cyclic_schedules_have_one_temperature_an_epoch(epochs: int) -> None:
    assert len(schedules.pcd(epochs, strength=0.11)) == epochs
    assert len(schedules.lpcd(epochs, target=1e-3)) == epochs


def test_linear_reaches_its_end_in_the_last_epoch() -> None:
    assert [schedules.linear(10.0, 0.1, e, 4) for e in range(4)] == pytest.approx(
        [10, 6.7, 3.4, 0.1]
    )
    assert schedules.linear(10.0, 0.1, 0, 1) == 10.0
