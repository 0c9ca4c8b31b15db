"""What MkDocs does here beyond Markdown.

Pages at the root of the repository (README, CONTRIBUTING, CHANGELOG) become pages of the site,
links that leave docs/ are followed (a method's file leads to its entry in the reference, any other
file is copied), and the pages of settings and of methods are written from the code.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files at the root → pages of the site."""
METHODS = "darts/methods/"
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/ and what is generated."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "reference/settings.md", content=settings_page()))
    files.append(File.generated(config, "reference/methods.md", content=methods_page()))
    for written in [file for file in files if file.src_uri.endswith(".md")]:
        for target in outside(written):
            if files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between places in the repository into links between places in the site."""
    file = page.file

    def rewritten(match: re.Match[str]) -> str:
        target = placed(file, match[2])
        if target is None:
            return match[0]
        path, _, anchor = target.partition("#")
        relative = os.path.relpath(path, os.path.dirname(file.src_uri) or ".")
        return f"{match[1]}{relative}{'#' + anchor if anchor else ''}{match[3]}"

    parts = FENCE.split(markdown)
    return "".join(p if p.startswith("```") else LINK.sub(rewritten, p) for p in parts)


def home(file: File) -> Path:
    """The folder of the repository from which the page's links start."""
    path = Path(file.abs_src_path) if file.abs_src_path else ROOT / "docs" / file.src_uri
    return path.resolve().parent


def placed(file: File, link: str) -> str | None:
    """Where in the site a link to a file of the repository leads; None if it is no such link."""
    if re.match(r"[a-z]+:", link):
        return None
    path = os.path.normpath(home(file) / link)
    inside = os.path.relpath(path, ROOT)
    if inside in PAGES:
        return PAGES[inside]
    if inside.startswith("docs/"):
        return inside.removeprefix("docs/")
    if inside.startswith(METHODS) and inside.endswith(".py"):
        module = inside.removesuffix(".py").replace("/", ".")
        return f"reference/methods.md#{module}"
    return inside if Path(path).is_file() else None


def outside(page: File) -> Iterator[str]:
    """The files outside docs/ that a page links to."""
    if page.abs_src_path is None:
        return
    text = FENCE.sub("", Path(page.abs_src_path).read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        target = placed(page, match[2])
        if target and (ROOT / target).is_file() and not (ROOT / "docs" / target).exists():
            yield target


def methods_page() -> str:
    """Every module of darts.methods: its account of sources and assumptions, and its code."""
    import darts.methods

    lines = [
        "# Methods in code\n",
        "What each file says about its paper, the code that was read beside it and what was",
        "assumed; the code unfolds below each. [All methods](../methods.md) lists them by name.\n",
    ]
    modules = [module.name for module in pkgutil.iter_modules(darts.methods.__path__)]
    for name in sorted(modules, key=lambda name: (name != "base", name)):
        shown = "members: [Method, Step, Loss, Trainer, register]"
        if name != "base":
            shown = "members: false\n      show_source: true"
        lines.append(f"::: darts.methods.{name}\n    options:\n      {shown}\n")
    return "\n".join(lines)


def settings_page() -> str:
    """Tables of every setting of a search and of an evaluation, then the commands' own help."""
    from darts.config import SearchConfig
    from darts.training.evaluation_config import EvaluationConfig

    return "\n".join(
        [
            "# Settings and commands\n",
            "Written from the declarations in the code. A name without a group is an option of its",
            "own (`--epochs 20`), any other goes through `--set` (`--set data.cutout=16`); a YAML",
            "file nests the groups. Methods' own settings are in `python -m darts methods NAME`.\n",
            "## Of a search\n",
            *table(SearchConfig),
            "\n## Of an evaluation\n",
            *table(EvaluationConfig),
            "\n## Commands\n",
            *commands(),
        ]
    )


def table(config: type[Any]) -> list[str]:
    """One row a setting: name, default, meaning, and the range that is allowed."""
    from darts.config import settings

    lines = ["| setting | default | meaning | allowed |", "| --- | --- | --- | --- |"]
    signs = {"above": ">", "at_least": "≥", "at_most": "≤"}
    for path, hint, field in settings(config):
        bounds = field.metadata
        limits = [f"{sign} {bounds[k]}" for k, sign in signs.items() if bounds[k] is not None]
        if hint is bool:
            limits = ["true, false"]
        if choices := getattr(hint, "__args__", None):
            limits = [", ".join(f"`{c}`" for c in choices if c is not type(None))]
        default = f"`{field.default}`" if field.default != "" else ""
        lines.append(f"| `{path}` | {default} | {bounds['doc']} | {' and '.join(limits)} |")
    return lines


def commands() -> list[str]:
    """Name and description of each command."""
    import darts.commands

    lines = []
    for module in pkgutil.iter_modules(darts.commands.__path__):
        command = importlib.import_module(f"darts.commands.{module.name}")
        parser = argparse.ArgumentParser(prog=f"python -m darts {module.name}", add_help=False)
        command.add_arguments(parser)
        summary, _, detail = (command.__doc__ or "").partition("\n")
        lines += [
            f"### {module.name}\n",
            summary,
            detail,
            "",
            "```text",
            parser.format_usage().strip(),
            "```\n",
        ]
    return lines
