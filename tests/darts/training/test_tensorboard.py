from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from darts.cli import main
from darts.errors import UserError
from darts.results.run_folder import RunFolder
from darts.training.tensorboard import TensorBoard

pytest.importorskip("tensorboard")

SMALL = ["--channels", "4", "--cells", "1", "--batch-size", "256", "--quiet"]


def read(folder: Path) -> Any:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_every_quantity_is_written_each_epoch(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["search", *SMALL, "--epochs", "2", "--tensorboard", "--out", str(out)]) == 0
    events = read(out / "tensorboard")
    records = RunFolder.open(out).records()
    for tag in ("temperature", "entropy", "weight_loss", "arch_accuracy", "seconds"):
        values = [event.value for event in events.Scalars(tag)]
        assert values == pytest.approx([record[tag] for record in records], rel=1e-6)
        assert [event.step for event in events.Scalars(tag)] == [1, 2]
    tags = events.Tags()["scalars"]
    for kind in ("alpha", "beta"):
        assert sum(tag.startswith(f"{kind}/cell/") for tag in tags) == 30
    for kind in ("entropy", "gradient_norm"):
        assert sum(tag.startswith(f"{kind}/cell/") for tag in tags) == 6
    beta = events.Scalars("beta/cell/1-2/nor_conv_3x3")[-1].value
    assert beta == pytest.approx(records[-1]["weights"]["cell"][2][3], rel=1e-6)
    assert events.Tags()["images"] == ["cell/cell"]
    assert events.Images("cell/cell")[0].width == 760


def test_needs_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", *SMALL, "--tensorboard"]) == 2
    assert "--tensorboard needs --out" in capsys.readouterr().err


def test_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install tensorboard"):
        TensorBoard(tmp_path)
