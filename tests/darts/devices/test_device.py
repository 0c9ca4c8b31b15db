from __future__ import annotations

import pytest
import torch

from darts.cli import main
from darts.devices.device import check_device
from darts.errors import UserError


def test_cpu_is_always_there() -> None:
    check_device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "", "cuda:x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="must be cpu, cuda or cuda:NUMBER"):
        check_device(name)


def test_a_gpu_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    genotype = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    for command in (["search"], ["evaluate", "--genotype", genotype]):
        assert main([*command, "--device", "cuda"]) == 2
        error = capsys.readouterr().err
        assert error == "error: device='cuda' needs a GPU, and PyTorch finds none here.\n"


def test_a_gpu_beyond_the_last_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(UserError, match="finds 2 of them"):
        check_device("cuda:2")
