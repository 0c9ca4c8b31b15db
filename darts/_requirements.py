"""Says in a sentence what the search library lacks, before anything fails for want of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_NEEDED = {
    "torchvision": "torchvision",
    "numpy": "numpy",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Import name → distribution of the extra `darts`."""

if (Path(__file__).parent / "timeseries.py").exists():
    raise ImportError(
        f"{Path(__file__).parent} holds the time-series package darts too, which has the same "
        "import name; give each an environment of its own."
    )
if _missing := [d for name, d in _NEEDED.items() if importlib.util.find_spec(name) is None]:
    raise ImportError(
        f"darts needs {', '.join(_missing)}; pip install 'snsoftmax[darts]' brings what is missing."
    )
