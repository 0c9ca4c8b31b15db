"""The program of the search library: `snsoftmax-darts`, or `python -m snsoftmax`.

It is `python -m darts`, which another package of the name `darts` may have overwritten: then this
says so.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def overwritten() -> str | None:
    """A sentence where another package's files lie in the folder `darts`, else None."""
    spec = importlib.util.find_spec("darts")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        return "the package darts is not installed; pip install 'snsoftmax[darts]'."
    if not (Path(folders[0]) / "timeseries.py").exists():
        return None
    return (
        f"{folders[0]} holds the time-series package darts too, whose files have replaced some of "
        "snsoftmax's; pip uninstall darts u8darts snsoftmax, then install snsoftmax again, each in "
        "an environment of its own."
    )


def main() -> int:
    """Run the command line of darts."""
    if problem := overwritten():
        print(f"error: {problem}", file=sys.stderr)
        return 2
    from darts.cli import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
