from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda runs the tests for a GPU too"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: PyTorch finds no GPU that it can use here.")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measurement data, which is no part of the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SNSOFTMAX_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"the measurement data are absent ({folder}; set SNSOFTMAX_SHARED)")
    return folder
