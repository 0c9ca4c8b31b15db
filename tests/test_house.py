"""The code keeps to docs/house.md: no import against the map, no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("darts", "snsoftmax")
    for path in sorted((ROOT / package).rglob("*.py*"))
    if path.suffix in (".py", ".pyi")
}


def rooms() -> list[str]:
    """The rooms of darts as the page's table has them, from what knows least."""
    page = (ROOT / "docs/house.md").read_text().split("## Rooms of darts")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", page, re.M)


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def room(module: str) -> str:
    return module.split(".")[1]


def entry(module: str) -> bool:
    """What stands before the rooms: the package itself and `python -m darts`."""
    return module in ("darts", "darts.__main__")


def test_the_page_names_every_room() -> None:
    assert sorted(rooms()) == sorted(
        {room(m) for m in MODULES if m.startswith("darts.") and not entry(m)}
    )


@pytest.mark.parametrize("name", [m for m in MODULES if m.startswith("darts.") and not entry(m)])
def test_no_import_against_the_map(name: str) -> None:
    order = rooms()
    for imported in imports(MODULES[name]):
        if imported.startswith("darts"):
            assert not entry(imported), f"{name} imports the whole package"
            assert order.index(room(imported)) <= order.index(room(name)), f"{name} -> {imported}"


def test_operators_know_nothing_of_darts() -> None:
    found = {n: list(imports(p)) for n, p in MODULES.items() if n.startswith("snsoftmax")}
    assert found
    knowing = [n for n, names in found.items() if any(i.startswith("darts") for i in names)]
    assert knowing == ["snsoftmax.__main__"], "the console script alone"


def test_no_circle() -> None:
    """A package stands for its __init__ alone, which imports what it shows, not the other way."""
    graph = {name: set(imports(path)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include ["<]([^">]+)[">]', path.read_text(), re.M)


def sources(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.*")) if p.suffix in (".h", ".cpp", ".cu")]


@pytest.mark.parametrize("path", sources("csrc/kernels"), ids=lambda path: path.name)
def test_kernels_know_their_folder_and_the_common_one(path: Path) -> None:
    for name in includes(path):
        assert not name.startswith(("ATen", "c10", "torch")), f"{path.name} includes {name}"
        if "/" in name and (ROOT / "csrc/kernels" / name).exists():
            assert name.split("/")[0] in ("common", path.parent.name), f"{path.name}: {name}"


JOINED = {"convolve_normalized.cpp": {"mixture"}}
"""Bindings that run two operators' kernels in turn on what is in a cache → the other's folder."""


@pytest.mark.parametrize("path", sources("csrc/torch"), ids=lambda path: path.name)
def test_bindings_know_their_folder_the_common_one_and_kernels(path: Path) -> None:
    for name in includes(path):
        # The module itself joins the operators.
        if name.startswith("../") and path.name != "module.cpp":
            assert name.startswith("../common/"), f"{path.name} includes {name}"
        elif (ROOT / "csrc/kernels" / name).exists() and path.parent.name != "common":
            known = {path.parent.name, *JOINED.get(path.name, ())}
            assert name.split("/")[0] in known, f"{path.name} includes {name}"


def test_no_method_and_no_recipe_names_a_space() -> None:
    files = [*(ROOT / "darts/methods").rglob("*.py"), ROOT / "darts/recipes.py"]
    named = re.compile(r"space\.(?:skeleton|name)\b")
    assert not [f.name for f in files if named.search(f.read_text())]
