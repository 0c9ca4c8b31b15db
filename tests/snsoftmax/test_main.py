"""The console script, beside other packages and without some."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, (path, ROOT))))}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=path or ROOT, env=environment, capture_output=True, text=True, check=False
    )


def requirements() -> Path:
    """The module of darts, wherever it is installed; darts itself is not imported."""
    spec = importlib.util.find_spec("darts")
    assert spec
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "_requirements.py"


@pytest.fixture
def darts_of_others(tmp_path: Path) -> Path:
    """The time-series package, as far as it shows."""
    package = tmp_path / "darts"
    package.mkdir()
    (package / "__init__.py").write_text("import pandas_that_is_not_there\n")
    (package / "timeseries.py").write_text("")
    return tmp_path


def test_it_is_the_program_of_darts() -> None:
    pytest.importorskip("torchvision")
    result = run("-m", "snsoftmax", "methods")
    assert result.returncode == 0, result.stderr
    assert result.stdout == run("-m", "darts", "methods").stdout


def test_another_package_of_the_name_is_named(darts_of_others: Path) -> None:
    result = run("-m", "snsoftmax", "methods", path=darts_of_others)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {darts_of_others / 'darts'} holds the time-series package")


def test_importing_says_so_too(darts_of_others: Path) -> None:
    package = darts_of_others / "darts"
    (package / "__init__.py").write_text("from darts import _requirements\n")
    shutil.copy(requirements(), package)
    result = run("-c", "import darts", path=darts_of_others)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {package} holds the time-series package darts too")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    package = tmp_path / "darts"
    package.mkdir()
    (package / "__init__.py").write_text("from darts import _requirements\n")
    shutil.copy(requirements(), package)
    result = run("-S", "-c", "import darts", path=tmp_path)  # without site-packages
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: darts needs torchvision, numpy, rich, matplotlib, ")
    assert last.endswith("pip install 'snsoftmax[darts]' brings what is missing.")
