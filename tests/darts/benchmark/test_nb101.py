"""NAS-Bench-101's answers."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from darts.benchmark.nb101 import COLUMNS, Table
from darts.cli import main
from darts.errors import UserError
from darts.results.run_folder import RunFolder
from tests.darts.networks.test_module_graph import CONV1, INCEPTION, POOL, graph

PARAMS = 2_694_282
OTHER = graph("01 12", POOL)


def written(path: Path, params: int = PARAMS) -> Path:
    lines = [
        ",".join(COLUMNS),
        f"{INCEPTION.digest()},{params},93.6,93.1,1154.5",
        f"{OTHER.digest()},1000,80,79.5,300",
    ]
    text = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_lookup_and_rank(name: str, tmp_path: Path) -> None:
    table = Table.load(written(tmp_path / name))
    assert table[INCEPTION] == (PARAMS, 93.6, 93.1, 1154.5)
    assert (table.rank(INCEPTION), table.rank(OTHER)) == (1, 2)
    # A vertex that leads nowhere does not count.
    assert table[graph("01 02 13", POOL, CONV1)] == table[OTHER]
    with pytest.raises(UserError, match="has no cell with the hash"):
        _ = table[graph("01 12", CONV1)]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    for content in ("id,arch\n1,x\n", "hash,params,valid,test,seconds\na,many,1,2,3\n"):
        path.write_text(content)
        with pytest.raises(UserError, match="cannot be read as a NAS-Bench-101 table"):
            Table.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        Table.load(tmp_path / "missing.csv")


def test_command_follows_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.create(tmp_path / "run", {"space": "1shot1-1"})
    for epoch, cell in enumerate((OTHER, INCEPTION)):
        run.append({"epoch": epoch, "genotype": str(cell)})
    run.write_genotype(str(INCEPTION))
    table = written(tmp_path / "table.csv")
    assert main(["nb101", str(run.path), "--table", str(table)]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert said[-3:] == [
        ["epoch", "valid", "test", "rank"],
        ["1", "80.00", "79.50", "2"],
        ["2", "93.60", "93.10", "1"],
    ]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = written(tmp_path / "table.csv.gz")
    assert main(["nb101", str(INCEPTION), "--table", str(table)]) == 0
    said = capsys.readouterr().out
    assert INCEPTION.digest() in said
    assert "2.694 M parameters" in said
    assert "valid 93.60 %, test 93.10 %, 1154 s\nrank 1 of 2" in said
    assert main(["nb101", str(INCEPTION), "--table", str(written(table, 1000))]) == 2
    assert "the table is of another benchmark" in capsys.readouterr().err
    assert main(["nb101", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"]) == 2
    assert "is not a cell of NAS-Bench-101" in capsys.readouterr().err
