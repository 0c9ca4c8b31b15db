"""Every command and every Python snippet of the documentation works as written.

The convention: a fenced block `sh` holds commands, one a line; `python` holds code; a block whose
first line is `# name.ext` is that file. The blocks of a page run in order, in one empty folder.
What cannot run in a test says why in the page's source: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import darts.commands
from darts.cli import main
from tests.docs.pages import PAGES, ROOT, Block, blocks, prose

SMALL = {
    "search": {"--epochs": "1", "--batch-size": "64", "--channels": "4", "--cells": "1"},
    "evaluate": {"--epochs": "1", "--batch-size": "64", "--channels": "4", "--cells": "1"},
}
"""Settings that a command is given here where its text names none: published sizes take hours."""


def sized(words: list[str]) -> list[str]:
    """The command with `SMALL` for the sizes that it leaves to the published values."""
    if words[:2] != ["-m", "darts"] or words[2] not in SMALL or "--resume" in words:
        return words
    missing = {flag: value for flag, value in SMALL[words[2]].items() if flag not in words}
    return [*words, *(word for pair in missing.items() for word in pair)]


def make_recipe(target: str) -> list[str]:
    """What the Makefile gives Python for `target`, at a size for a test, without its training."""
    silent = ("--no-print-directory", "--dry-run")  # the first where a make runs this test
    command = ["make", *silent, "--assume-old=build/.extension", target]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(printed.replace("\\\n", " "))
    small = [word for pair in SMALL["search"].items() for word in pair]
    words.remove("--evaluate")
    return [*words[1:], *small, "--warmup", "0"]  # the last value of an option wins


def run(command: str, folder: Path) -> None:
    """Run one command of a page, in the working directory `folder`, as the reader would."""
    program, *rest = shlex.split(command)
    if program == "make":
        rest = make_recipe(*rest)
    elif program == "sbatch":  # SLURM runs the script's commands through srun
        script = (folder / rest[0]).read_text()
        assert script.startswith("#!"), f"{rest[0]}: sbatch refuses a script without this"
        script = script.replace("srun python", sys.executable)
        return run_process(["bash", "-euc", script], folder)
    elif program == "torchrun":
        rest = ["-m", "torch.distributed.run", *rest]
    elif program == "python":
        rest = sized(rest)
    else:
        raise AssertionError(f"{command}: no rule says how a test runs {program}")
    if rest[:2] != ["-m", "darts"] or "--ray" in rest:
        return run_process([sys.executable, *rest], folder)
    assert main(rest[2:]) == 0, command  # without another 3 seconds of imports
    return None


def run_process(arguments: list[str], folder: Path) -> None:
    """Run a program to its end."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that modules are imported from, as by `python -m`."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_works_as_written(name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    page = [block for block in blocks(PAGES[name]) if block.reason is None]
    if any("nb201.csv.gz" in block.text for block in page):
        shared: Path = request.getfixturevalue("shared")
        shutil.copy(shared / "nb201.csv.gz", folder)
    for language, group in itertools.groupby(page, key=lambda block: block.language):
        run_blocks(language, list(group), folder)


def run_blocks(language: str, group: list[Block], folder: Path) -> None:
    """Write files, run commands; snippets of Python that follow on each other run as one."""
    for block in group:
        if block.file:
            (folder / block.file).write_text(block.text)
    rest = [block for block in group if not block.file]
    if language == "sh":
        for command in (command for block in rest for command in block.commands):
            run(command, folder)
    elif language == "python" and rest:
        (folder / "snippet.py").write_text("\n".join(block.text for block in rest))
        run_process([sys.executable, "snippet.py"], folder)


def test_what_is_not_run_says_why() -> None:
    for name, page in PAGES.items():
        for block in blocks(page):
            assert block.reason is None or len(block.reason.split()) >= 4, f"{name}: {block}"
            assert block.language, f"{name}: a block without a language: {block.text[:60]!r}"


def test_commands_are_in_blocks_that_are_run() -> None:
    """An indented command would be missed."""
    for name, page in PAGES.items():
        stray = re.findall(
            r"^(?: {4}|\t)\$? ?(?:python|make|pip|torchrun|srun) .*", prose(page), re.M
        )
        assert not stray, f"{name}: put {stray} into a block of sh"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command of darts."""
    found = {}
    for module in pkgutil.iter_modules(darts.commands.__path__):
        command = importlib.import_module(f"darts.commands.{module.name}")
        found[module.name] = argparse.ArgumentParser()
        command.add_arguments(found[module.name])
    return found


def test_options_named_in_prose_exist() -> None:
    """`--option` in a sentence, and `python -m MODULE`, which no test runs."""
    known = {flag for parser in parsers().values() for flag in parser._option_string_actions}
    for name, page in PAGES.items():
        slurm = set(
            re.findall(r"^#SBATCH (--[\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        )
        for code in re.findall(r"`([^`\n]+)`", prose(page)):
            if module := re.match(r"python -m ([\w.]+)(?: (\w+))?", code):
                assert importlib.util.find_spec(module[1]), f"{name}: {code}"
                if module[1] != "darts":
                    continue
                assert module[2] in {*parsers(), None, "COMMAND"}, f"{name}: {code}"
            elif not code.startswith("--"):
                continue
            for flag in re.findall(r"(?<!\S)(--[a-z][\w-]*)", code):
                assert flag in known | slurm, f"{name}: {code} names {flag}, which no command has"


@pytest.mark.slow
def test_listed_files_of_a_run_are_there(folder: Path) -> None:
    """The table of a run folder's files in docs/running.md."""
    page = ROOT / "docs" / "running.md"
    listed = set(re.findall(r"^\| `([\w.]+)/?` \|", page.read_text(), re.MULTILINE))
    run(next(block for block in blocks(page) if block.language == "sh").commands[0], folder)
    assert {path.name for path in (folder / "runs" / "edd").iterdir()} == listed


SOURCES = {
    "6 x 5, two CPU": [("| 6 x 5 | 2", 1), ("| 6 x 5 | 2", 2)],
    "C=16, N=1, float32": [
        ("| `Search.step`, EDD, float32 | 187", 1),
        ("| the same, channels last, compiled, float32 |", 1),
    ],
    "C=16, N=1, bfloat16": [
        ("| `Search.step`, EDD, bfloat16 | 122", 1),
        ("| the same, channels last, compiled, bfloat16 |", 1),
    ],
    "C=16, N=5, bfloat16": [
        ("| ours, bfloat16 |", 1),
        ("| one module per operation, bfloat16, channels last, as a graph |", 1),
    ],
    "whole EDD search": [("| EDD-DARTS here, s |", 1), ("| AutoDL-Projects, DARTS first order", 1)],
}
"""Words of a row of the README's table → where the performance page has its two figures: how the
row begins, and the column."""


def first_number(cell: str) -> float:
    number = re.search(r"\d[\d,]*(?:\.\d+)?", cell)
    assert number, cell
    return float(number[0].replace(",", ""))


def test_figures_of_the_readme_are_those_of_the_performance_page() -> None:
    """What is measured again must be changed in both."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## How fast")[2].partition("\n## ")[0]
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][
        1:
    ]
    assert len(rows) == len(SOURCES)
    for words, places in SOURCES.items():
        (row,) = (row for row in rows if words in row)
        cells = row.strip("| ").split(" | ")
        found = []
        for begins, column in places:
            (line,) = (line for line in page if line.startswith(begins))
            found.append(first_number(line.strip("| ").split(" | ")[column]))
        assert [first_number(cell) for cell in cells[1:3]] == found, words
        assert first_number(cells[3]) == pytest.approx(found[1] / found[0], rel=0.02), words
