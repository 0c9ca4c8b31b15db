from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measurement data, which is no part of the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SNSOFTMAX_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"the measurement data are absent ({folder}; set SNSOFTMAX_SHARED)")
    return folder
