"""The table of latencies: what it holds, what it says of a network, what it refuses."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from darts.budgets.budget import Budget
from darts.budgets.costs import Sizes
from darts.budgets.latency import REST, LatencyTable, measure, medians, runner
from darts.cli import main
from darts.config import BudgetConfig, ConfigError
from darts.data import load
from darts.errors import UserError
from darts.networks.genotype import Genotype
from darts.recipes import configure
from darts.spaces import DARTS, NB201, S4
from darts.training.search import Search

SIZES = Sizes(4, 1, 10, (3, 8, 8))
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|{}~0|none~1|none~2|"


def made_up(sizes: Sizes = SIZES) -> LatencyTable:
    """In which a 3x3 convolution takes a millisecond and everything else a hundredth."""
    side = sizes.shape[1]
    shapes = ((4, side), (8, side // 2), (16, side // 4))
    times = {
        f"{name} {c}x{s}x{s} stride 1": 1.0 if name == "nor_conv_3x3" else 0.01
        for c, s in shapes
        for name in NB201.cells["cell"].candidates[0]
    }
    described = {"channels": sizes.channels, "cells": sizes.cells, "classes": sizes.classes}
    where = {"device": "cpu", "name": "none", "threads": 1}
    check = [{"genotype": "", "predicted": 1.1, "measured": 1.0}]
    return LatencyTable(
        "nb201", described | {"shape": list(sizes.shape)}, where, 1, {REST: 0.5} | times, 2.0, check
    )


def test_sum_over_all_cells_times_the_factor() -> None:
    costs = made_up().costs(NB201, SIZES)
    found = costs.of(NB201, Genotype.parse(CONVOLUTIONS.format("nor_conv_1x1")))
    assert found == pytest.approx(2.0 * (0.5 + 3 * (3 * 1.0 + 3 * 0.01)))


def test_saved_and_read(tmp_path: Path) -> None:
    made_up().save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == made_up()
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["error_percent"] == pytest.approx(10)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"error_percent": 1, "sizes": 3}'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(UserError, match=r"table\.json' is no table of `python -m darts latency`"):
        LatencyTable.load(tmp_path / "table.json")
    with pytest.raises(UserError, match="is no table"):
        LatencyTable.load(tmp_path / "absent.json")


def test_another_network_is_refused_with_the_command_that_measures_it() -> None:
    with pytest.raises(UserError, match=r"channels=4, and the network has channels=16.*--channels"):
        made_up().costs(NB201, Sizes(16, 1, 10, (3, 8, 8)))
    table = made_up()
    with pytest.raises(UserError, match=r"has no entry '\w+ .* it was measured on space nb201"):
        table.costs(DARTS, SIZES)
    table.costs(NB201, Sizes(4, 1, 100, (3, 8, 8)))


@pytest.mark.parametrize("space", [NB201, S4], ids=lambda space: space.name)
def test_measured_table_prices_every_architecture(space: Any) -> None:
    table = measure(space, SIZES, "cpu", rounds=1, networks=1)
    assert all(time >= 0 for time in table.times.values())
    costs = table.costs(space, SIZES)
    (row,) = table.check
    assert costs.of(space, Genotype.parse(row["genotype"])) == pytest.approx(row["predicted"])


def test_medians_are_of_the_rounds_that_count() -> None:
    def counter(step: float) -> Callable[[], float]:
        calls: list[float] = []

        def run() -> float:
            calls.append(step)
            return sum(calls)

        return run

    # Three rounds warm up, so that rounds 4 to 8 count.
    assert medians({"one": counter(1), "ten": counter(10)}, 5) == {"one": 6, "ten": 60}


def test_runner_keeps_no_gradient_and_does_not_train() -> None:
    net = nn.BatchNorm2d(3)
    assert runner(net, (3, 4, 4), 2, "cpu")() > 0
    assert not net.training
    assert net.running_mean is not None
    assert torch.equal(net.running_mean, torch.zeros(3))


def test_search_under_a_latency(tmp_path: Path) -> None:
    images = load("digits")
    sizes = Sizes(4, 1, images.classes, images.shape)
    made_up(sizes).save(tmp_path / "table.json")
    budget: Any = {"latency": 10, "table": str(tmp_path / "table.json"), "channels": 4, "cells": 1}
    config = configure(
        method="darts-v1",
        epochs=2,
        data={"batch_size": 256},
        supernet={"channels": 4, "cells": 1},
        budget=budget,
    )
    search = Search(config, images=images)
    result = search.run()
    assert search.budget
    assert search.budget.costs(result.genotype)["latency"] <= 10
    assert str(result.genotype).count("nor_conv_3x3") <= 1


def test_a_table_of_another_device_is_refused(tmp_path: Path) -> None:
    sizes = Sizes(4, 1, 10, (1, 8, 8))
    made_up(sizes).save(tmp_path / "table.json")
    of = BudgetConfig(latency=10, table=str(tmp_path / "table.json"), channels=4, cells=1)
    Budget(NB201, dataclasses.replace(of, device="cpu"), sizes, "cpu")
    with pytest.raises(UserError, match=r"budget\.device='cuda' is not the device .* on, cpu;"):
        Budget(NB201, dataclasses.replace(of, device="cuda"), sizes, "cpu")
    with pytest.raises(ConfigError, match=r"budget\.device='tpu' must be cpu, cuda or empty"):
        Budget(NB201, dataclasses.replace(of, device="tpu"), sizes, "cpu")
    with pytest.raises(ConfigError, match=r"budget\.device needs budget\.latency"):
        Budget(NB201, BudgetConfig(device="cuda"), sizes, "cpu")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    small = ["--channels", "4", "--shape", "1x8x8", "--rounds", "1", "--networks", "1"]
    assert main(["latency", *small, "--out", str(out)]) == 0
    assert "median error" in capsys.readouterr().out
    assert LatencyTable.load(out).sizes["shape"] == [1, 8, 8]
    assert main(["latency", "--shape", "8x8", "--out", str(out)]) == 2
    assert main(["latency", "--rounds", "0", "--out", str(out)]) == 2
    assert "rounds must be at least 1, not 0" in capsys.readouterr().err
