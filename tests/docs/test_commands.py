"""Every command and every Python snippet of the documentation works as written.

The convention: a fenced block `sh` holds commands, one a line; `python` holds code; a block whose
first line is `# name.ext` is that file. The blocks of a page run in order, in one empty folder.
What cannot run in a test says why in the page's source: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import argparse
import importlib
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
from tests.docs.pages import PAGES, ROOT, Block, blocks, prose

SMALL = {
    "search": {"--epochs": "1", "--batch-size": "64", "--channels": "4", "--cells": "1"},
    "evaluate": {"--epochs": "1", "--batch-size": "64", "--channels": "4", "--cells": "1"},
}
"""Settings that a command is given here where its text names none: published sizes take hours."""
BENCHMARKS = ("python -m bench.figure2",)
"""Programs of bench that are short and need nothing."""


def sized(words: list[str]) -> list[str]:
    """The command with `SMALL` for the sizes that it leaves to the published values."""
    if words[:2] != ["-m", "darts"] or words[2] not in SMALL or "--resume" in words:
        return words
    missing = {flag: value for flag, value in SMALL[words[2]].items() if flag not in words}
    return [*words, *(word for pair in missing.items() for word in pair)]


def make_recipe(target: str) -> list[str]:
    """The arguments that the Makefile gives Python for `target`, at a size for a test."""
    command = ["make", "--dry-run", "--assume-old=build/.extension", target]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(printed.replace("\\\n", " "))
    small = [word for pair in SMALL["search"].items() for word in pair]
    return [*words[1:], *small, "--warmup", "0"]  # the last value of an option wins


def run(command: str, folder: Path) -> str:
    """Run one command of a page as the reader would, with the repository's packages."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    program, *rest = shlex.split(command)
    if program == "make":
        arguments = [sys.executable, *make_recipe(*rest)]
    elif program == "python":
        arguments = [sys.executable, *sized(rest)]
    elif program == "sbatch":  # SLURM runs the script's commands through srun
        script = (folder / rest[0]).read_text().replace("srun python", f"{sys.executable}")
        arguments = ["bash", "-euc", script]
    else:
        raise AssertionError(f"{command}: no rule says how a test runs {program}")
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def execute(block: Block, folder: Path, snippets: list[str]) -> None:
    """Write a file, run commands, or run Python after the page's earlier snippets."""
    if block.file:
        (folder / block.file).write_text(block.text)
    elif block.language == "sh":
        for command in block.commands:
            run(command, folder)
    elif block.language == "python":
        snippets.append(block.text)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_works_as_written(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = [block for block in blocks(PAGES[name]) if block.reason is None]
    text = "".join(block.text for block in page)
    if "nb201.csv.gz" in text:
        shared: Path = request.getfixturevalue("shared")
        shutil.copy(shared / "nb201.csv.gz", tmp_path)
    snippets: list[str] = []
    for block in page:
        if block.language == "sh" and snippets:
            run_python(snippets, tmp_path)
            snippets = []
        execute(block, tmp_path, snippets)
    if snippets:
        run_python(snippets, tmp_path)


def run_python(snippets: list[str], folder: Path) -> None:
    """Run the snippets one after another in one interpreter."""
    (folder / "snippets.py").write_text("\n".join(snippets))
    run("python snippets.py", folder)


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
        for code in re.findall(r"`([^`\n]+)`", prose(page)):
            if module := re.match(r"python -m ([\w.]+)(?: (\w+))?", code):
                assert importlib.util.find_spec(module[1]), f"{name}: {code}"
                if module[1] != "darts":
                    continue
                assert module[2] in {*parsers(), None, "COMMAND"}, f"{name}: {code}"
            elif not code.startswith("--"):
                continue
            for flag in re.findall(r"(?<!\S)(--[a-z][\w-]*)", code):
                assert flag in known, f"{name}: {code} names {flag}, which no command has"


def test_listed_files_of_a_run_are_there(tmp_path: Path) -> None:
    """The table of a run folder's files in docs/running.md."""
    page = ROOT / "docs" / "running.md"
    listed = set(re.findall(r"^\| `([\w.]+)/?` \|", page.read_text(), re.M))
    run(next(block for block in blocks(page) if block.language == "sh").commands[0], tmp_path)
    assert {path.name for path in (tmp_path / "runs" / "edd").iterdir()} == listed
