"""Compare methods with the public code of their authors, imported unmodified from checkouts.

    python -m bench.parity PEERS

PEERS is a folder with checkouts under their repository names (those that are absent are skipped and
named): AutoDL-Projects, PCDEDD, DrNAS, gaea_release, PC-DARTS, SmoothDARTS, Beta-DARTS, darts-pt,
sgas, FairDARTS, DARTS-, RobustDARTS, nasbench-1shot1. Each line says what was compared on the same
α, seed and weights, and the largest absolute difference. Nothing needs a GPU: `.cuda()` is made to
do nothing.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch import Tensor

import bench.parity.loops_bench
import bench.parity.loops_darts
import bench.parity.loops_family
import bench.parity.loops_nb201
import bench.parity.networks
import bench.parity.one_shot
import bench.parity.rules  # noqa: F401  and these
from bench.parity.harness import CHECKS


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore", category=UserWarning, module="search-cell")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peers", type=Path)
    folder = parser.parse_args().peers
    Tensor.cuda = lambda self, *a, **k: self  # type: ignore[method-assign]
    torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[method-assign]
    print("| method | against | compared | largest difference |\n| --- | --- | --- | --- |")
    for method, (checkout, check) in CHECKS.items():
        path = folder / checkout
        if not path.is_dir():
            print(f"| {method} | {checkout} | absent | - |")
            continue
        for what, difference in check(path):
            print(f"| {method} | {checkout} | {what} | {difference:.1e} |")


if __name__ == "__main__":
    main()
