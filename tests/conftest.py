from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Here, since pytest looks for --hypothesis-profile before it imports a test. `make fuzz` asks for
# the second; the first is every other run's.
for name, examples in (("ci", 300), ("fuzz", 10_000)):
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda runs the tests for a GPU too"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: PyTorch finds no GPU that it can use here.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cuda" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")


@pytest.fixture
def cuda(request: pytest.FixtureRequest) -> torch.device:
    """The GPU; a test that asks for it is marked `gpu`."""
    if request.config.getoption("--device") != "cuda":
        pytest.skip("runs on a GPU only: pytest --device cuda")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measurement data, which is no part of the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SNSOFTMAX_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"the measurement data are absent ({folder}; set SNSOFTMAX_SHARED)")
    return folder
