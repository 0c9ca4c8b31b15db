"""The documentation as data: pages, their fenced blocks, and what is declared not to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]
}
"""Every page that is written by hand, by its name in the repository."""
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: `sh` is commands, `python` is code, and either may be a file."""

    language: str
    text: str
    reason: str | None
    """Why it is not run, from the comment `<!-- not run: REASON -->` above it."""

    @property
    def file(self) -> str | None:
        """The name in a first line `# name.ext` (a `#!` may come before): the file's content."""
        first = re.match(r"(?:#!.*\n)?# ([\w.-]+\.\w+)\n", self.text)
        return first[1] if first else None

    @property
    def commands(self) -> list[str]:
        """One command a line; a backslash continues it, a comment after two spaces ends it."""
        joined = self.text.replace("\\\n", " ")
        lines = [re.sub(r"\s\s+#.*", "", line).strip() for line in joined.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: Path) -> Iterator[Block]:
    """The page's fenced blocks, in order."""
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["language"], match["text"], match["reason"])


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
