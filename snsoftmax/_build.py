"""Loads the extension, or says in a sentence why it cannot be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch

_REMEDY = '`pip install --no-build-isolation -e ".[dev]"` in the source folder'


def _check_build() -> None:
    """Compare this PyTorch with the one that the extension was built for.

    Loading it under another release ends in an undefined symbol, or worse, in none.

    Raises:
        ImportError: they differ.
    """
    path = Path(__file__).with_name("_built_for.json")
    if not path.exists():
        return
    built = json.loads(path.read_text())
    here = ".".join(torch.__version__.split(".")[:2])
    cuda = torch.version.cuda
    if built["torch"] != here:
        raise ImportError(
            f"snsoftmax was built for PyTorch {built['torch']}, and this is {torch.__version__}; "
            f"install the wheel of this release, or run {_REMEDY}."
        )
    if built["cuda"] is not None and (cuda or "").split(".")[0] != built["cuda"].split(".")[0]:
        raise ImportError(
            f"snsoftmax was built for CUDA {built['cuda']}, and PyTorch {torch.__version__} is "
            f"built {f'for CUDA {cuda}' if cuda else 'without'}; run {_REMEDY}."
        )


_check_build()
try:
    from snsoftmax import _C  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"snsoftmax's compiled extension is missing or cannot be loaded; run {_REMEDY} ({error})."
    ) from error
