"""What a user reads when the extension is missing or cannot be built as asked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_without_extension_says_what_to_run(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "snsoftmax", tmp_path / "snsoftmax", ignore=shutil.ignore_patterns("*.so")
    )
    result = run("-c", "import snsoftmax", cwd=tmp_path)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert 'pip install --no-build-isolation -e ".[dev]"' in last


RELEASE = ".".join(torch.__version__.split(".")[:2])


@pytest.mark.parametrize(
    ("built_for", "sentence"),
    [
        ({"torch": "1.9", "cuda": None}, "snsoftmax was built for PyTorch 1.9, and this is "),
        ({"torch": RELEASE, "cuda": "1.0"}, "snsoftmax was built for CUDA 1.0, and PyTorch "),
    ],
)
def test_import_under_another_pytorch_is_one_sentence(
    built_for: dict[str, str | None], sentence: str, tmp_path: Path
) -> None:
    package = tmp_path / "snsoftmax"
    shutil.copytree(ROOT / "snsoftmax", package, ignore=shutil.ignore_patterns("*.so"))
    (package / "_built_for.json").write_text(json.dumps(built_for))
    result = run("-c", "import snsoftmax", cwd=tmp_path)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: " + sentence)
    assert last.endswith(".")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("2", "SNSOFTMAX_CUDA must be 0 or 1, got '2'."),
        ("1", "SNSOFTMAX_CUDA=1 cannot be met: "),
    ],
)
def test_impossible_cuda_is_refused_in_one_sentence(
    value: str, sentence: str, tmp_path: Path
) -> None:
    environment = {"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path), "SNSOFTMAX_CUDA": value}
    result = run("setup.py", "--name", cwd=ROOT, **environment)
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1].startswith(sentence)


def test_without_nvcc_the_cpu_build_goes_on(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path), "SNSOFTMAX_CUDA": ""}
    result = run("setup.py", "--name", cwd=ROOT, **environment)
    assert result.returncode == 0
    assert "Building without CUDA: " in result.stdout


@pytest.mark.slow
def test_a_source_distribution_has_all_that_a_build_reads(tmp_path: Path) -> None:
    skipped = shutil.ignore_patterns(
        ".git", ".venv", "build", "runs", "*.so", "*.egg-info", "__pycache__"
    )
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=skipped)
    result = run("setup.py", "-q", "sdist", "-d", str(tmp_path), cwd=source, SNSOFTMAX_CUDA="0")
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {Path(*Path(name).parts[1:]) for name in packed.getnames()}
        (about,) = (n for n in packed.getnames() if n.count("/") == 1 and n.endswith("PKG-INFO"))
        extracted = packed.extractfile(about)
        assert extracted
        metadata = extracted.read().decode()
    assert re.fullmatch(r"snsoftmax-\d+\.\d+\.\d+\.tar\.gz", archive.name)
    assert re.search(r"^Version: \d+\.\d+\.\d+$", metadata, re.M), "an index takes no local version"
    assert "Requires-Dist: torch>=2.10" in metadata
    required = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.M)
    assert required == ["torch>=2.10"], "the operators need nothing else"
    needed = {
        path.relative_to(ROOT)
        for folder in ("csrc", "snsoftmax", "darts", "studies", "tests/csrc")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".h", ".cpp", ".cu", ".py", ".pyi", ".txt", ".yaml", ".typed")
    }
    assert len(needed) > 150
    assert sorted(map(str, needed - names)) == []
