"""Every mutant still finds the place that it breaks; that it is noticed takes a compiler."""

from __future__ import annotations

import pytest

from tests.csrc.mutant import Mutant
from tests.csrc.mutants import MUTANTS, places


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_breaks_one_place(mutant: Mutant) -> None:
    assert len(places(mutant)) == 1
    assert mutant.new != mutant.old
