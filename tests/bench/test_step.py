"""The step that the benchmark times is the one that searches take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import step as bench
from bench.rivals import Size
from darts import Search
from darts.data import Batch
from darts.devices.capture import WARM_UP
from darts.methods.edd import EDD
from darts.spaces import NB201
from darts.supernet import live_operations

SIZE = Size(channels=4, batch=4)


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[Search]:
    """The search of every `Search.step`."""
    searches: list[Search] = []
    step = Search.step

    def noted(self: Search, weight_batch: Batch, arch_batch: Batch) -> Tensor:
        searches.append(self)
        return step(self, weight_batch, arch_batch)

    monkeypatch.setattr(Search, "step", noted)
    return searches


@pytest.mark.parametrize("method", ["edd", "darts-v1", "gdas"])
def test_it_is_the_searchs_own(method: str, stepped: list[Search]) -> None:
    run = bench.search_step(method, NB201, SIZE, "bfloat16")
    losses = run()
    assert isinstance(losses, Tensor)
    assert losses.isfinite().all()
    (search,) = stepped
    assert search.method.name == method
    assert search.precision == torch.bfloat16
    assert search.method.gradient_norms(search.method.norm_sums)
    assert search.net.training


def test_all_variants_are_searches(stepped: list[Search]) -> None:
    steps = bench.variants(SIZE, None)
    ours = [name for name in steps if not name.startswith("module per operation")]
    for name in ours:
        steps[name]()
    named = [name.split(",")[0] for name in ours]
    assert [search.method.name for search in stepped] == named
    assert set(named) == {*bench.METHODS, "gdas"}


def live(search: Search) -> Tensor:
    """How many operations of each edge the weight step computes."""
    found = live_operations(search.method.weights(), torch.finfo(torch.float32).eps / 4)
    return torch.tensor([sum(row) for row in found["cell"]])


def test_edd_mixes_by_sn_softmax_and_at_a_small_temperature_has_one_operation(
    stepped: list[Search],
) -> None:
    bench.search_step("edd", NB201, SIZE)()
    bench.search_step("edd", NB201, SIZE, temperature=bench.SHARP)()
    usual, sharp = stepped
    assert isinstance(usual.method, EDD)
    assert usual.method.smoothed("cell")  # its warm-up, without the smooth term, is over
    assert usual.method.temperature < 1
    assert (live(usual) == 5).all()
    assert (live(sharp) == 1).all()


@pytest.mark.parametrize("captured", [False, True])
def test_steps_on_a_gpu_are_the_searchs(
    captured: bool, stepped: list[Search], cuda: torch.device
) -> None:
    size = Size(channels=4, batch=4, device=str(cuda))
    run = bench.search_step("edd", NB201, size, captured=captured)
    for _ in range(WARM_UP + 2):
        losses = run()
        assert isinstance(losses, Tensor)
        assert losses.isfinite().all()
        assert losses.device.type == "cuda"
    assert len(stepped) == WARM_UP + (1 if captured else 2)
