from __future__ import annotations

import bz2
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darts.benchmark import nb201
from darts.benchmark.nb201 import ALL_SKIP, RESNET, Table
from darts.benchmark.nb201_import import import_official
from darts.cli import main
from darts.errors import UserError

ARCHS = [ALL_SKIP, RESNET, RESNET.replace("nor_conv_3x3", "nor_conv_1x1")]
SETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}


def state(index: int, *, weights: bool = False) -> dict[str, Any]:
    """The state of one architecture's results as the official files hold it."""
    results: dict[str, Any] = {"arch_index": index, "all_results": {}, "dataset_seed": {}}
    for place, (dataset, splits) in enumerate(SETS.items()):
        results["dataset_seed"][dataset] = [777, 888]
        for seed, extra in ((777, 0.0), (888, 0.5)):
            accuracies: Any = OrderedDict()
            for epoch in range(200):
                for offset, split in enumerate(splits):
                    value = 10.0 * place + index + offset + extra + epoch / 1000
                    accuracies[f"{split}@{epoch}"] = np.float64(value) if index == 1 else value
            results["all_results"][dataset, seed] = {
                "params": 0.073306 + index,
                "epochs": 200,
                "eval_acc1es": accuracies,
                "net_state_dict": {"stem": torch.ones(2)} if weights else None,
            }
    return results


def dump(path: Path, content: Any) -> None:
    with bz2.open(path, "wb") as file:
        pickle.dump(content, file)


@pytest.fixture(autouse=True)
def three_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nb201, "SIZE", len(ARCHS))


def make(layout: str, folder: Path) -> Path:
    if layout == "folder":
        source = folder / "NATS-tss-v1_0-3ffb9-simple"
        source.mkdir()
        dump(source / "meta.pickle.pbz2", {"meta_archs": ARCHS})
        for index in range(len(ARCHS)):
            dump(source / f"{index:06d}.pickle.pbz2", {"12": {}, "200": state(index)})
        return source
    epochs = "200" if layout == "file" else "full"
    whole = {
        "meta_archs": ARCHS,
        "arch2infos": {i: {epochs: state(i, weights=True)} for i in range(len(ARCHS))},
        "evaluated_indexes": set(range(len(ARCHS))),
    }
    if layout == "file":
        source = folder / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
        dump(source, whole)
    else:
        source = folder / "NAS-Bench-201-v1_1-096897.pth"
        torch.save({**whole, "evaluated_indexes": [0, 1, 2]}, source)
    return source


@pytest.mark.parametrize("layout", ["folder", "file", "pth"])
def test_official_layouts_become_the_compact_table(layout: str, tmp_path: Path) -> None:
    target = tmp_path / "table.csv.gz"
    assert import_official(make(layout, tmp_path), target) == 3
    table = Table.load(target)
    row = table[RESNET]
    assert (row.id, row.params) == (1, 1_073_306)
    # Mean of the two seeds is + 0.25; the last epoch + 0.199; the third set's second split + 1.
    assert row.valid == {"cifar10": 1.449, "cifar100": 21.449, "imagenet16_120": 31.449}
    assert row.test == {"cifar10": 11.449, "cifar100": 22.449, "imagenet16_120": 32.449}


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    source = make("folder", tmp_path)
    for name in ("a.csv.gz", "b.csv.gz"):
        import_official(source, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


class Danger:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("/tmp/pickle-ran-code",)


def test_wrong_sources_are_one_sentence(tmp_path: Path) -> None:
    source, target = make("folder", tmp_path), tmp_path / "table.csv"
    with pytest.raises(UserError, match="must end in"):
        import_official(source, tmp_path / "table.txt")
    with pytest.raises(UserError, match="does not exist"):
        import_official(tmp_path / "none.pickle.pbz2", target)
    dump(source / "meta.pickle.pbz2", {"meta_archs": ARCHS[:2]})
    with pytest.raises(UserError, match="has 2 architectures, and the benchmark 3"):
        import_official(source, target)
    dump(source / "meta.pickle.pbz2", {"meta_archs": Danger()})
    with pytest.raises(UserError, match=r"it holds a posix\.mkdir"):
        import_official(source, target)
    assert not Path("/tmp/pickle-ran-code").exists()
    dump(source / "meta.pickle.pbz2", {"meta_archs": ARCHS})
    (source / "000001.pickle.pbz2").write_bytes(b"BZh9 cut")
    with pytest.raises(UserError, match="or is damaged"):
        import_official(source, target)
    assert not target.exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "table.csv")
    assert main(["nb201", "import", str(make("folder", tmp_path)), target]) == 0
    assert main(["nb201", "query", RESNET, "--table", target]) == 0
    printed = capsys.readouterr().out
    assert "3 architectures" in printed
    assert "#1, 1.073 M parameters" in printed
    assert "CIFAR-100          21.45   22.45      2    23.45   22.45     21.45" in printed
    assert main(["nb201", "top", "--count", "1", "--dataset", "cifar100", "--table", target]) == 0
    assert ARCHS[2] in capsys.readouterr().out
    assert main(["nb201", "top", "--dataset", "mnist", "--table", target]) == 2
    assert main(["nb201", "top", "--count", "0", "--table", target]) == 2
    output = capsys.readouterr()
    assert not output.out
    assert "dataset='mnist'" in output.err
    assert "count=0" in output.err


def test_shared_table_survives_being_written(shared: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nb201, "SIZE", 15_625)
        table = Table.load(shared / "nb201.csv.gz")
        nb201.write(table.rows, tmp_path / "again.csv.gz")
        assert Table.load(tmp_path / "again.csv.gz").rows == table.rows
    assert (tmp_path / "again.csv.gz").stat().st_size < 1_000_000
