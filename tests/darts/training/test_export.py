from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from darts import configure_evaluation
from darts.benchmark.nb201 import RESNET
from darts.cli import main
from darts.data import evaluation_batches, load
from darts.errors import UserError
from darts.networks.network import build_network
from darts.training.evaluate import evaluate
from darts.training.export import export, load_network


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run"
    config = configure_evaluation(
        genotype=RESNET,
        network={"channels": 4},
        training={"epochs": 2},
        data={"batch_size": 128},
        seeds=2,
        out=str(out),
    )
    evaluate(config)
    return out


@pytest.fixture(scope="module")
def images() -> Tensor:
    return load("digits").test_images[:7]


def test_network_takes_bytes_and_scores_as_in_the_evaluation(run: Path) -> None:
    digits = load("digits")
    first, second = load_network(run), load_network(run, seed=1)
    logits = first(digits.test_images)
    normalised = next(evaluation_batches(digits, batch_size=len(digits.test_images))).images
    torch.testing.assert_close(logits, first.net(normalised), atol=1e-5, rtol=1e-5)
    assert not torch.equal(logits, second(digits.test_images))
    lines = (run / "log.jsonl").read_text().splitlines()
    top1 = 100 * float((logits.argmax(1) == digits.test_labels).double().mean())
    assert f'"test_top1": {top1:.6f}'[:-1] in lines[1]


def test_state_dict_and_genotype_rebuild_the_network(
    run: Path, images: Tensor, tmp_path: Path
) -> None:
    content = torch.load(export(run, tmp_path / "net.pt"), weights_only=True)
    net = build_network(
        content["genotype"], channels=content["channels"], cells=content["cells"], classes=10
    ).eval()
    net.load_state_dict(content["state_dict"])
    mean, deviation = content["mean"][:, None, None], content["deviation"][:, None, None]
    logits = net((images / 255 - mean) / deviation)
    torch.testing.assert_close(logits, load_network(run)(images), atol=1e-5, rtol=1e-5)


def test_a_folder_and_a_file_are_read_anywhere(
    run: Path, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the images that were trained on, and from another folder."""
    expected = load_network(run)(images)
    export(run, tmp_path / "net.pt")
    shutil.copytree(run, tmp_path / "moved")

    def no_data(*_: object, **__: object) -> None:
        raise AssertionError("images were loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("darts.training.evaluate.load_data", no_data)
    for place in ("moved", "net.pt"):
        assert torch.equal(load_network(place)(images), expected)
    with pytest.raises(UserError, match="holds one network"):
        load_network("net.pt", seed=1)


def test_the_configuration_holds_the_architecture_not_where_it_lay(tmp_path: Path) -> None:
    (tmp_path / "genotype.txt").write_text(RESNET + "\n")
    assert configure_evaluation(genotype=str(tmp_path)).genotype == RESNET


@pytest.mark.slow
def test_exported_program_gives_the_same_logits(run: Path, images: Tensor, tmp_path: Path) -> None:
    path = export(run, tmp_path / "net.pt2")
    program = torch.export.load(path).module()
    for batch in (images, images[:1]):
        torch.testing.assert_close(program(batch), load_network(run)(batch), atol=1e-5, rtol=1e-5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.pt2"]


@pytest.mark.slow
def test_onnx_model_gives_the_same_logits(run: Path, images: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export(run, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(path)
    for batch in (images, images[:1]):
        (logits,) = session.run(["logits"], {"images": batch.numpy()})
        expected = load_network(run)(batch).detach()
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


def test_wrong_input_is_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        ([str(tmp_path), "net.pt"], "is not a run folder"),
        ([str(run), str(tmp_path / "net.h5")], "must end in .pt, .pt2, .onnx"),
        ([str(run), str(tmp_path / "net.pt"), "--seed", "5"], "with seed 5 is not finished"),
    ):
        assert main(["export", *arguments]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("method: edd\n")
    with pytest.raises(UserError, match="is not the run folder of an evaluation"):
        load_network(tmp_path)
    assert not list(tmp_path.glob("net*"))
