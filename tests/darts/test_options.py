from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import pytest

from darts import options
from darts.config import ConfigError, setting


@dataclass(frozen=True)
class Group:
    size: int = setting(3, "how large")
    depth_limit: int = setting(4, "how deep")


@dataclass(frozen=True)
class Config:
    max_rate: float = setting(0.5, "how fast")
    group: Group = field(default_factory=Group)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.declare(parser, Config, {"size": "group.size"})
    return parser.parse_args(arguments)


def test_only_what_is_asked_for_is_given() -> None:
    assert options.given(parse()) == {}
    asked = parse("--max-rate", "1", "--size", "7", "--set", "group.depth_limit=9")
    assert options.given(asked) == {
        "max_rate": "1",
        "group": {"size": "7", "depth_limit": "9"},
    }


def test_resume_excludes_settings() -> None:
    with pytest.raises(ConfigError, match="leave out max_rate"):
        options.given(parse("--resume", "run", "--max-rate", "1"))


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    printed = capsys.readouterr().out
    for text in ("--max-rate", "how fast", "--size", "how large", "group.depth_limit"):
        assert text in printed
