"""Two processes find what one finds; killed, they go on as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.benchmark.nb201 import RESNET
from darts.cli import main
from darts.data import evaluation_batches
from darts.data.batches import Batches
from darts.devices import parallel
from darts.errors import UserError
from darts.results.run_folder import RunFolder
from tests.darts.devices.parallel_cases import SEARCHES, few_digits, results
from tests.darts.process_helpers import wait_for_checkpoint

ROOT = Path(__file__).resolve().parents[3]
SMALL = "--method edd --batch-size 64 --channels 4 --cells 1 --epochs 2 --seed 3 --quiet"
SMALL += " --checkpoint-minutes 0.0001"


def start(processes: int, *command: str) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path])),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    printed, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    return printed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_outlives_the_processes_group() -> None:
    lines = finish(start(2, "tests.darts.devices.parallel_exit")).splitlines()
    threads = [line for line in lines if line.startswith("threads:")]
    assert len(threads) == 2
    assert not any("gloo" in line for line in threads)


def workers(launcher: int) -> list[int]:
    """The processes that a launcher has started, in the order of their numbers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has ended
            continue
        if parent == launcher:
            found.append(int(stat.parent.name))
    return sorted(found)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    else:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for name, part in items:
            yield from leaves(part, f"{path}.{name}")


def outcome(out: Path) -> tuple[list[dict[str, Any]], str, dict[str, Tensor]]:
    run = RunFolder.open(out)
    records = [{k: v for k, v in r.items() if "seconds" not in k} for r in run.records()]
    weights = torch.load(out / "weights.pt", weights_only=True)
    return records, (out / "genotype.txt").read_text(), weights


# ---- equality ----


@pytest.fixture(scope="module")
def of_one() -> dict[str, Any]:
    return results()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("parallel") / "two.pt"
    finish(start(2, "tests.darts.devices.parallel_cases", str(file)))
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def assert_close(one: Any, two: Any, tolerance: float) -> None:
    """Equal up to `tolerance` of each tensor's largest value."""
    expected, found = dict(leaves(one)), dict(leaves(two))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        size = float(value.double().abs().max())
        difference = float((found[name].double() - value.double()).abs().max())
        assert difference <= tolerance * size, (name, difference, size)


@pytest.mark.slow
@pytest.mark.parametrize("case", SEARCHES)
def test_a_search_does_not_depend_on_the_number_of_processes(
    case: str, of_one: dict[str, Any], of_two: dict[str, Any]
) -> None:
    one, two = of_one[case], of_two[case]
    assert one["alpha"][0].dtype == torch.float64
    assert_close(one.pop("losses"), two.pop("losses"), 1e-6)  # the log is float32
    assert_close(one, two, 1e-10)


@pytest.mark.slow
def test_nor_does_a_training(of_one: dict[str, Any], of_two: dict[str, Any]) -> None:
    one, two = of_one["training"], of_two["training"]
    assert_close(one.pop("losses"), two.pop("losses"), 1e-6)
    assert_close(one, two, 1e-10)


@pytest.mark.slow
def test_nor_do_batch_normalisation_and_its_derivatives(
    of_one: dict[str, Any], of_two: dict[str, Any]
) -> None:
    assert_close(of_one["normalization"], of_two["normalization"], 1e-10)


@pytest.mark.slow
def test_nor_what_methods_decide_by(of_one: dict[str, Any], of_two: dict[str, Any]) -> None:
    one, two = of_one["decisions"], of_two["decisions"]
    assert_close(one.pop("eigenvalue"), two.pop("eigenvalue"), 1e-3)  # second derivatives, float32
    assert_close(one, two, 1e-5)


# ---- runs that end early ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by two processes that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    printed = finish(start(2, "darts", "search", *SMALL.split(), "--out", str(out)))
    assert printed.count("edd on nb201") == 1  # one of them speaks
    return out


@pytest.mark.slow
def test_a_worker_is_killed_and_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(2, "darts", "search", *SMALL.split(), "--out", str(out))
    assert wait_for_checkpoint(out, 9, process)
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (out / "genotype.txt").exists()
    process = start(2, "darts", "search", "--resume", str(out), "--quiet")
    assert wait_for_checkpoint(out, 14, process)
    os.kill(workers(process.pid)[1], signal.SIGTERM)  # one is asked, all stop
    assert f"stopped by SIGTERM; python -m darts search --resume {out}" in finish(process)
    assert not (out / "genotype.txt").exists()
    shutil.copytree(out, tmp_path / "copy")
    finish(start(2, "darts", "search", "--resume", str(out), "--quiet"))
    (records, genotype, weights), (others, other_genotype, other_weights) = map(
        outcome, (whole, out)
    )
    assert len(records) == 2
    assert records == others
    assert genotype == other_genotype
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    # One process goes on with what two have begun. Many float32 steps magnify what rounding does.
    assert main(["search", "--resume", str(tmp_path / "copy"), "--quiet"]) == 0
    for record, other in zip(records, outcome(tmp_path / "copy")[0], strict=True):
        assert record["weight_loss"] == pytest.approx(other["weight_loss"], rel=1e-2)


@pytest.mark.slow
def test_evaluation_by_two_processes(tmp_path: Path) -> None:
    asked = ["evaluate", "--genotype", RESNET, "--data", "digits", "--epochs", "1"]
    asked += ["--channels", "4", "--batch-size", "64", "--out"]
    printed = finish(start(2, "darts", *asked, str(tmp_path / "two")))
    assert printed.count("on held-out images") == 1  # one of them speaks
    assert main([*asked, str(tmp_path / "one")]) == 0
    (two,), (one,) = (RunFolder.open(tmp_path / n).records() for n in ("two", "one"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert (tmp_path / "two" / "weights-0.pt").is_file()


# ---- without other processes ----


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="batch_size=15 must be a multiple of the 2 processes"):
        Batches(few_digits(), batch_size=15, seed=0, world=2)


def test_held_out_images_are_shared_out_in_whole_batches() -> None:
    images = few_digits()
    everything = list(evaluation_batches(images, batch_size=9))
    shares = [list(evaluation_batches(images, batch_size=9, rank=r, world=2)) for r in (0, 1)]
    assert [len(share) for share in shares] == [3, 2]
    for r, share in enumerate(shares):
        for batch, same in zip(share, everything[r::2], strict=True):
            assert torch.equal(batch.images, same.images)
            assert torch.equal(batch.labels, same.labels)


def test_every_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="device='cuda:1' is one GPU, but each of the 2 processes"):
        parallel.join("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes on this machine need as many GPUs"):
        parallel.join("cuda")


def test_a_single_process_is_a_group_of_its_own() -> None:
    parallel.join("cpu")
    x = torch.ones(2, requires_grad=True)
    assert (parallel.rank(), parallel.world()) == (0, 1)
    assert parallel.average(x) is x
    assert parallel.total(x) is x
    assert parallel.own(x) is x
    assert parallel.shared([x])[0] is x
    assert parallel.greatest([1, 2]) == [1, 2]
    assert parallel.from_first(lambda: 3) == parallel.first_then_others(lambda: 3) == 3
