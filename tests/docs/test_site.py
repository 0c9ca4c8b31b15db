"""The site is built without a warning, is complete, and asks the network for nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

LOADING = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "input": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "track": "src",
    "video": "src",
}
"""Elements that make a browser fetch something, and the attribute that says what."""


class Loads(HTMLParser):
    """Collects what a page makes a browser fetch, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.mermaid = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag in LOADING and LOADING[tag] in found and found.get("rel") != "canonical":
            self.loads.append(found[LOADING[tag]])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if "id" in found:
            self.ids.add(found["id"])
        self.mermaid |= "mermaid" in found.get("class", "").split()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def read(page: Path) -> Loads:
    parser = Loads()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.mark.slow
def test_nothing_comes_from_the_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 18
    for page in pages:
        found = read(page)
        external = [load for load in found.loads if re.match(r"(?:[a-z]+:)?//", load)]
        assert not external, f"{page.name}: {external}"
        assert not found.mermaid, f"{page.name}: the theme would fetch what draws diagrams"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", text), sheet.name


@pytest.mark.slow
def test_every_link_leads_somewhere(site: Path) -> None:
    parsed = {page.resolve(): read(page) for page in site.rglob("*.html")}
    for page, found in parsed.items():
        if page.name == "404.html":
            continue  # its links start from the server's root
        for link in (*found.links, *found.loads):
            path, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page.name}: {link}"
            if anchor and target in parsed:
                assert anchor in parsed[target].ids, f"{page.name}: {link}"


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import darts
    import snsoftmax

    described = {
        name: read(site / "reference" / f"{name}.html").ids for name in ("darts", "snsoftmax")
    }
    for package in (darts, snsoftmax):
        for name in package.__all__:
            if name in ("SPACES", "METHODS", "__version__"):  # values; their getters are described
                continue
            found = any(i.split(".")[-1] == name for i in described[package.__name__])
            assert found, f"{package.__name__}.{name} is missing from docs/reference"


@pytest.mark.slow
def test_search_finds_the_operator(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "reference/snsoftmax.html#snsoftmax.sn_softmax" in index
