"""What a forge reads: workflows, forms, the citation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FORGE = ROOT / ".github"
FORMS = sorted(p for p in (FORGE / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
SCHEMAS = [
    *((path, "github-workflows") for path in sorted((FORGE / "workflows").glob("*.yml"))),
    *((path, "github-issue-forms") for path in FORMS),
    (FORGE / "ISSUE_TEMPLATE/config.yml", "github-issue-config"),
    (ROOT / "CITATION.cff", "citation-file-format"),
]


@pytest.mark.parametrize(("path", "schema"), SCHEMAS, ids=lambda value: Path(str(value)).name)
def test_files_are_as_the_forge_wants_them(path: Path, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    # `.cff` is YAML, which the checker tells by the name.
    command += ["--default-filetype", "yaml", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_step_of_a_workflow_is_a_target_of_make() -> None:
    """So each can be run on any machine."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    seen = set()
    for path in sorted((FORGE / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                if "run" in step:
                    make, target, *_ = step["run"].split(None, 2)
                    assert make == "make", step
                    assert target in targets, step
                    seen.add(target)
    assert {"test", "test-fast", "docs", "sdist-test", "index", "bench-gpu"} <= seen


def test_the_version_stands_once_in_every_file() -> None:
    version = re.search(r'^VERSION = "(.+)"$', (ROOT / "setup.py").read_text(), re.M)
    assert version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version[1]
    assert re.search(
        rf"^## .*\b{re.escape(version[1])}\b", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
