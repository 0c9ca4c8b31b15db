"""Whether an extension can be used here, without loading it."""

from __future__ import annotations

import json
import runpy
import sysconfig
from pathlib import Path

import pytest
import torch

from bench.gpu import extension

SOURCES = runpy.run_path(str(extension.ROOT / "csrc/digest.py"))["digest"]()
FITTING = {
    "torch": ".".join(torch.__version__.split(".")[:2]),
    "cuda": "13.0",
    "architectures": "9.0",
    "sources": SOURCES,
}


@pytest.fixture(autouse=True)
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")


def package(folder: Path, suffix: str | None = None, **changes: str) -> Path:
    made = folder / "snsoftmax"
    made.mkdir(parents=True)
    (made / f"_C{suffix or sysconfig.get_config_var('EXT_SUFFIX')}").write_text("code")
    (made / "_built_for.json").write_text(json.dumps(FITTING | changes))
    return made


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"suffix": ".cpython-27-none.so"}, "it has no _C"),
        ({"torch": "1.0"}, "it is for PyTorch 1.0, and this is"),
        ({"cuda": "12.8"}, "it is for CUDA 12.8, and PyTorch's is 13.2"),
        ({"cuda": None}, "it is for CUDA None"),
        ({"sources": "others"}, "it is built of other sources"),
        ({"architectures": "8.0;10.0"}, "it is for 8.0;10.0, and this GPU is 9.0"),
    ],
)
def test_what_fits(changes: dict[str, str], why: str | None, tmp_path: Path) -> None:
    found = extension.misfit(package(tmp_path, **changes), (9, 0))
    assert found == why if why is None else str(found).startswith(why)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.0;9.0", (9, 0), True),
        ("8.0", (8, 6), True),
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0 7.5+PTX", (9, 0), True),
        ("12.0+PTX", (9, 0), False),
        ("9.0a", (9, 0), True),
    ],
)
def test_which_gpus_it_runs_on(architectures: str, capability: tuple[int, int], runs: bool) -> None:
    assert extension.runs_on(architectures, capability) is runs


def test_what_was_carried_is_put_in_place_if_it_fits(tmp_path: Path) -> None:
    package(tmp_path / "builds/a", torch="1.0")
    assert extension.carried((9, 0), tmp_path / "builds") is None
    good = package(tmp_path / "builds/b")
    assert extension.carried((9, 0), tmp_path / "builds") == good
    target = tmp_path / "snsoftmax"
    target.mkdir()
    extension.put_in_place(good, target)
    assert extension.misfit(target, (9, 0)) is None


def test_the_digest_is_of_what_is_compiled(tmp_path: Path) -> None:
    for name in ("setup.py", "csrc/sources.txt", "csrc/kernels/a/a.cu", "csrc/torch/a/a.cpp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    script = tmp_path / "csrc/digest.py"
    script.write_text((extension.ROOT / "csrc/digest.py").read_text())

    def digest() -> str:
        return str(runpy.run_path(str(script))["digest"]())

    seen = {digest()}
    (tmp_path / "csrc/simt").mkdir()
    (tmp_path / "csrc/simt/simt.cpp").write_text("1")
    seen.add(digest())
    assert len(seen) == 1
    for name in ("setup.py", "csrc/kernels/a/a.cu", "csrc/torch/a/a.cpp"):
        (tmp_path / name).write_text("2")
        seen.add(digest())
    assert len(seen) == 4
