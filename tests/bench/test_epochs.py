"""What is kept of a search's log, and drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import epochs


def record(epoch: int) -> dict[str, Any]:
    """A line of a log: two edges, of which one has `none` alone."""
    return {
        "epoch": epoch,
        "temperature": 0.0012345678,
        "entropy": 0.5,
        "weight_loss": 1.0,
        "weight_accuracy": 50.0,
        "arch_accuracy": 40.0,
        "discrete_accuracy": 12.5,
        "nb201": {"cifar10": 93.5, "cifar100": 70.0},
        "weights": {"cell": [[1.0, 0.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]]},
        "genotype": f"cell {epoch}",
        "seconds": 3.0,
    }


def test_an_epoch_is_its_cell_and_how_beta_is_shared_out() -> None:
    found = epochs.epoch_of(record(3))
    assert found["share"] == {
        "none": 0.6,
        "skip_connect": 0.1,
        "nor_conv_1x1": 0.1,
        "nor_conv_3x3": 0.1,
        "avg_pool_3x3": 0.1,
    }
    assert found["temperature"] == 0.0012346
    assert (found["epoch"], found["cifar10"], found["pruned"]) == (3, 93.5, 12.5)
    assert "seconds" not in found
    resting = record(0)
    del resting["arch_accuracy"]
    assert "arch_accuracy" not in epochs.epoch_of(resting)


def test_logs_of_other_searches_are_refused() -> None:
    without = record(0)
    del without["nb201"]
    narrow = record(0)
    narrow["weights"] = {"cell": [[0.25] * 4]}
    for other in (without, narrow, record(0) | {"weights": {"normal": [[1.0]]}}):
        with pytest.raises(SystemExit, match="a search of nb201 with --nb201"):
            epochs.epoch_of(other)


def test_searches_are_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = {}
    for label, count in (("one", 4), ("the other", 2)):
        logs[label] = tmp_path / f"{count}.jsonl"
        logs[label].write_text("".join(f"{json.dumps(record(e))}\n" for e in range(count)))
    target = tmp_path / "epochs.json"
    given = [f"{label}={path}" for label, path in logs.items()]
    monkeypatch.setattr(sys, "argv", ["epochs", *given, "--json", str(target)])
    epochs.main()
    searches = json.loads(target.read_text())["searches"]
    assert {label: len(found) for label, found in searches.items()} == {"one": 4, "the other": 2}
    assert searches["one"][2]["genotype"] == "cell 2"
    assert target.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
