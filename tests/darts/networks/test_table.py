"""The table of skeletons is the one place that tells them apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import darts
from darts.networks.table import SKELETONS
from darts.spaces import SPACES, Space


def test_nothing_asks_for_a_skeleton_by_its_name() -> None:
    compared = re.compile(r"skeleton\s*(?:==|!=|in\b|is\b)\s*[\"'(\[]|isinstance\(\S*around\b")
    files = Path(darts.__file__).parent.rglob("*.py")
    assert not [f.name for f in files if compared.search(f.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", sorted(SPACES))
def test_one_skeleton_reads_an_architectures_text(name: str) -> None:
    space = SPACES[name]
    text = str(space.derive({n: torch.rand(c.shape) for n, c in space.cells.items()}))
    assert [s.name for s in SKELETONS.values() if s.reads(text)] == [space.skeleton]
    assert space.around is SKELETONS[space.skeleton]


def test_a_skeleton_that_there_is_not_is_named() -> None:
    cells = SPACES["nb201"].cells
    with pytest.raises(ValueError, match=r"skeleton='ring' must be .*'nb201'.*'darts'"):
        Space("mine", "ring", cells)
