"""What the extension is built from, as one value: setup.py stores it, bench.gpu compares it."""

import hashlib
from pathlib import Path


def digest() -> str:
    """SHA-256 of setup.py and of all names and contents below csrc that are compiled."""
    here = Path(__file__).resolve().parent
    compiled = (here / folder for folder in ("kernels", "torch"))
    files = [here.parent / "setup.py", here / "sources.txt"]
    files += sorted(path for folder in compiled for path in folder.rglob("*") if path.is_file())
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.relative_to(here.parent)}\n".encode() + path.read_bytes())
    return found.hexdigest()
