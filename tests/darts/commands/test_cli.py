import json
from pathlib import Path

import pytest

from darts.cli import main
from darts.results.run_folder import RunFolder

TINY = ["--batch-size", "256", "--channels", "4", "--cells", "1", "--epochs", "1"]


def test_search_prints_a_line_an_epoch_and_the_genotype(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(["search", "--method", "edd", *TINY, "--lam", "0.2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1/1" in printed
    assert "genotype  |" in printed
    assert str(out) in printed
    record = json.loads((out / "log.jsonl").read_text())
    assert record["genotype"] in printed
    assert "lam: 0.2" in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "darts-v1", "--lam", "3"], "unknown setting 'options.lam'"),
        (["--scale", "0.5"], "options.scale must be above 1, not 0.5"),
        (["--scale", "50", "--smooth-temperature", "1"], "exclude each other"),
        (["--set", "weights.clip"], "--set needs GROUP.NAME=VALUE"),
        (["--set", "weights.clipp=3"], "did you mean 'clip'"),
        (["--epocs", "3"], "unknown argument '--epocs'; did you mean '--epochs'?"),
        (["--batchsize=3"], "unknown argument '--batchsize'; did you mean '--batch-size'?"),
        (["--space", "nb301"], "space='nb301' is unknown"),
        (["--data", "nowhere.npz"], "does not exist"),
        (["--config", "nowhere.yaml"], "cannot be read"),
        (["--nb201", "nowhere.csv.gz"], "cannot be read"),
    ],
)
def test_wrong_input_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(["search", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--scale", "50"], (50.0, None)),
        (["--smooth-temperature", "2"], (None, 2.0)),
        (["--smooth-temperature", "0"], (None, 0.0)),
        (["--scale", "none"], (None, 1.0)),
    ],
)
def test_scale_and_smooth_temperature_set_the_operator(
    arguments: list[str], expected: tuple[float | None, ...], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(["search", *TINY, *arguments, "--out", str(out)]) == 0
    stored = RunFolder.open(out).config["options"]
    assert (stored["scale"], stored["smooth_temperature"]) == expected


def test_a_file_that_is_no_yaml_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_text("lam: : 3\n")
    assert main(["search", "--config", str(tmp_path / "wrong.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: config ")
    assert error.count("\n") == 1


def test_settings_come_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    file, out = tmp_path / "search.yaml", tmp_path / "run"
    file.write_text("method: edd\nsupernet: {channels: 4, cells: 1}\nepochs: 9\n")
    arguments = ["--config", str(file), "--epochs", "1", "--batch-size", "256"]
    assert main(["search", *arguments, "--set", "arch.clip=2", "--out", str(out)]) == 0
    stored = (out / "config.yaml").read_text()
    assert "epochs: 1\n" in stored
    assert "channels: 4\n" in stored
    assert "clip: 2.0\n" in stored


def test_methods_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("edd ") for line in lines)
    assert any(line.startswith("darts-v1 ") for line in lines)


def test_methods_describes_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "edd"]) == 0
    printed = capsys.readouterr().out
    assert "--lam" in printed
    assert "batch_size: 256" in printed


def test_help_leaves_single_methods_settings_to_their_own_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    shown = capsys.readouterr().out
    assert "--epochs" in shown
    assert "--lam" not in shown
    assert "methods METHOD" in shown
    assert main(["methods", "edd"]) == 0
    assert "--lam" in capsys.readouterr().out
