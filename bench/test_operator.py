"""The operator's cases as a pytest-benchmark suite: `pytest bench/test_operator.py`."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.operator import CASES, DTYPES, Case, Variant, eager, ours, plain


@pytest.mark.parametrize("kind", ["forward", "backward", "both"])
@pytest.mark.parametrize("variant", [ours, eager, plain])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_operator(
    benchmark: BenchmarkFixture, name: str, dtype: str, variant: Variant, kind: str
) -> None:
    """Time one pass of one variant."""
    benchmark.group = f"{name}, {dtype}, {kind}"
    case = Case(CASES[name], DTYPES[dtype], torch.device("cpu"))
    benchmark(case.passes(variant)[kind])
