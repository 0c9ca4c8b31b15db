"""The extension that the GPU needs: the one that is there if it fits, one carried here, or a build.

Nothing here imports snsoftmax, so that what is built or put in place is what gets loaded.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ROOT / "build/cross"
"""Where `make cross` puts what it builds, a folder each."""


def misfit(package: Path, capability: tuple[int, int]) -> str | None:
    """Why the extension in the folder `package` cannot be used here; None if it can.

    Args:
        package: the folder `snsoftmax` of a checkout or of a build.
        capability: of the GPU, as `torch.cuda.get_device_capability` gives it.
    """
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if not (package / f"_C{suffix}").is_file():
        return f"it has no _C{suffix}"
    about = package / "_built_for.json"
    built: dict[str, Any] = json.loads(about.read_text()) if about.is_file() else {}
    release = ".".join(torch.__version__.split(".")[:2])
    if built.get("torch") != release:
        return f"it is for PyTorch {built.get('torch')}, and this is {torch.__version__}"
    cuda = (torch.version.cuda or "").split(".")[0]
    if (built["cuda"] or "").split(".")[0] != cuda:
        return f"it is for CUDA {built['cuda']}, and PyTorch's is {torch.version.cuda}"
    if built.get("sources") != runpy.run_path(str(ROOT / "csrc/digest.py"))["digest"]():
        return "it is built of other sources"
    if not runs_on(str(built["architectures"]), capability):
        return (
            f"it is for {built['architectures']}, and this GPU is {'.'.join(map(str, capability))}"
        )
    return None


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code for `architectures` ("8.0;9.0+PTX") runs on a GPU of `capability`.

    Machine code runs on the same major version from its minor one on, PTX on all later ones.
    """
    for major, minor, ptx in re.findall(r"(\d+)\.(\d+)[af]?(\+PTX)?", architectures):
        built = int(major), int(minor)
        if built <= capability and (ptx or built[0] == capability[0]):
            return True
    return False


def carried(capability: tuple[int, int], folder: Path = CARRIED) -> Path | None:
    """The package of a build in `folder` that fits, if there is one."""
    for package in sorted(folder.glob("*/snsoftmax")):
        if misfit(package, capability) is None:
            return package
    return None


def put_in_place(package: Path, target: Path = ROOT / "snsoftmax") -> None:
    """Copy a build's extension to where it is loaded from."""
    for path in (*package.glob("_C*.so"), package / "_built_for.json"):
        shutil.copy2(path, target / path.name)
