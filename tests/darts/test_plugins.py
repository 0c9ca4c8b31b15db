"""Spaces and methods of the user's own, by `MODULE:NAME`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from darts.errors import UserError
from darts.methods import METHODS, get_method
from darts.networks.genotype import Genotype
from darts.networks.network import build_network
from darts.spaces import SPACES, get_space

SPACE = """
import darts

edges = tuple((s, t) for t in range(1, 5) for s in range(t))
candidates = (("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"),) * 10
darts.SPACES["five"] = darts.Space("five", "nb201", {"cell": darts.Cell(1, edges, candidates)})
"""
OPERATION = """
import torch
from torch import nn

import darts
from darts.networks.operations import OPERATIONS, ReLUConvNorm


class SqueezeExcite(nn.Module):
    def __init__(self, channels, stride, affine, track):
        super().__init__()
        self.body = ReLUConvNorm(channels, channels, 3, stride, affine, track)
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        y = self.body(x)
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))


OPERATIONS["se_conv_3x3"] = SqueezeExcite
edges = tuple((s, t) for t in range(1, 4) for s in range(t))
cell = darts.Cell(1, edges, (("se_conv_3x3",),) * 6)
darts.SPACES["se"] = darts.Space("se", "nb201", {"cell": cell})
"""
METHOD = """
from darts.methods.base import Method, register


@register("lazy", "α never moves")
class Lazy(Method):
    alpha_moves = False
"""
SMALL = shlex.split("--data digits --epochs 1 --batch-size 64 --channels 4 --cells 1")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_space.py").write_text(SPACE)
    (tmp_path / "own_method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_space", "own_method"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delitem(SPACES, "five", raising=False)
    monkeypatch.delitem(METHODS, "lazy", raising=False)
    return tmp_path


def test_modules_are_imported_by_name(own: Path) -> None:
    assert get_space("own_space:five").cells["cell"].shape == (10, 4)
    assert get_method("own_method:lazy").summary == "α never moves"
    with pytest.raises(UserError, match="space='own_space:six' is unknown; choose from nb201"):
        get_space("own_space:six")
    with pytest.raises(UserError, match="method='absent:x': 'absent' cannot be imported"):
        get_method("absent:x")
    with pytest.raises(UserError, match="cannot be imported"):
        get_space(":x")


def test_genotype_of_another_graph_is_read_and_built(own: Path) -> None:
    space = get_space("own_space:five")
    text = "|sep_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|max_pool_3x3~2|"
    genotype = Genotype.parse(text)
    assert str(genotype) == text
    build_network(genotype, channels=4, cells=1, classes=2)
    assert space.skeleton == genotype.skeleton


@pytest.mark.slow
def test_every_command_finds_them_again(own: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def darts(*arguments: str) -> None:
        command = [sys.executable, "-m", "darts", *arguments]
        subprocess.run(command, cwd=own, env=environment, check=True)

    names = ["--space", "own_space:five", "--method", "own_method:lazy"]
    darts("search", *names, *SMALL, "--out", "run")
    darts("search", "--resume", "run")
    darts("report", "run")
    darts("evaluate", "--genotype", "run", *SMALL)
    assert (own / "run" / "report.html").is_file()


@pytest.mark.slow
def test_an_operation_of_ones_own_goes_from_the_search_to_the_report(own: Path) -> None:
    (own / "own_operation.py").write_text(OPERATION)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def darts(*arguments: str) -> None:
        command = [sys.executable, "-m", "darts", *arguments]
        subprocess.run(command, cwd=own, env=environment, check=True)

    darts("search", "--space", "own_operation:se", "--method", "edd", *SMALL, "--out", "run")
    darts("report", "run")
    darts("evaluate", "--genotype", "run", *SMALL)
    assert "se_conv_3x3" in (own / "run" / "report.html").read_text()
