"""The typed keywords of `configure` say what the dataclasses say."""

import dataclasses
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from darts.config import SearchConfig
from darts.keywords import EvaluationKeywords, SearchKeywords
from darts.training.evaluation_config import EvaluationConfig

ROOT = Path(__file__).parents[2]
ALSO = {"method", "space", "loss"}
"""Keywords that may be the thing itself, too, in place of its name."""


def differences(keywords: Any, config: Any) -> list[str]:
    """Names and types in which the two part, groups included."""
    typed, hints = typing.get_type_hints(keywords), typing.get_type_hints(config)
    fields = [f.name for f in dataclasses.fields(config)]
    found = [f"{keywords.__name__}: {n}" for n in set(fields) ^ set(typed)]
    for name in set(fields) & set(typed):
        if dataclasses.is_dataclass(hints[name]):
            found += differences(typed[name], hints[name])
        elif name in ALSO:
            found += [] if hints[name] in typing.get_args(typed[name]) else [name]
        elif typed[name] != hints[name]:
            found.append(f"{keywords.__name__}.{name}: {typed[name]} is not {hints[name]}")
    return found


@pytest.mark.parametrize(
    ("keywords", "config"),
    [(SearchKeywords, SearchConfig), (EvaluationKeywords, EvaluationConfig)],
)
def test_keywords_are_the_settings(keywords: Any, config: Any) -> None:
    assert differences(keywords, config) == []


def test_a_difference_is_found() -> None:
    @dataclasses.dataclass
    class Config:
        epochs: int = 1
        seed: int = 0

    keywords = typing.cast(Any, typing.TypedDict)("Changed", {"epochs": str})
    assert len(differences(keywords, Config)) == 2


PROGRAM = """
import torch

import darts
import snsoftmax

entropy: bool = bool(torch.rand(()) > 2)
found = snsoftmax.sn_softmax(torch.zeros(2, 3), 0.1, return_entropy=entropy)
reveal_type(found)
darts.configure(method=darts.get_method("edd"), data={"source": "digits", "batch_size": 8})
darts.configure_evaluation(genotype="x", network={"channels": 4})
darts.configure(epochz=3)
darts.configure(weights={"lr": 0.1})
darts.configure_evaluation(training={"epochs": "many"})
"""


@pytest.mark.slow
def test_mypy_knows_the_settings(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", ROOT / ".mypy_cache", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    notes = "defined in"  # where a function stands, behind the error
    lines = [n for n in ran.stdout.splitlines() if "program.py" in n and notes not in n]
    told = {int(line.split(":")[1]): line for line in lines}
    assert sorted(told) == [9, 12, 13, 14], ran.stdout
    assert "Union[torch._tensor.Tensor, tuple[" in told[9] or "Tensor | tuple[" in told[9]
    assert "epochz" in told[12]
    assert "lr" in told[13]
    assert "epochs" in told[14]
