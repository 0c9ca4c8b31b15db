from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from darts import configure_evaluation
from darts.benchmark.nb201 import RESNET, Table
from darts.data import ImageSet, load
from darts.errors import UserError
from darts.networks.two_inputs import TwoInputNetwork
from darts.training.checkpoint import Stopped
from darts.training.evaluate import Evaluation, cost, evaluate
from darts.training.evaluation_config import EvaluationConfig, parse
from darts.training.scratch import Training

DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), "
    "('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), "
    "('skip_connect', 1)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def few_digits(count: int = 160) -> ImageSet:
    digits = load("digits")
    return ImageSet(
        "few digits",
        digits.train_images[:count],
        digits.train_labels[:count],
        digits.test_images[:40],
        digits.test_labels[:40],
        flip=False,
    )


def small(**changes: Any) -> EvaluationConfig:
    settings: dict[str, Any] = {
        "genotype": RESNET,
        "network": {"channels": 4, "cells": 1},
        "training": {"epochs": 2},
        "data": {"batch_size": 32},
    }
    return configure_evaluation(**{**settings, **changes})


def without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in history]


def test_recipes_are_the_published_ones() -> None:
    nb201 = configure_evaluation(genotype=RESNET, recipe="nb201")
    assert (nb201.network.channels, nb201.network.cells) == (16, 5)
    assert (nb201.training.epochs, nb201.data.batch_size) == (200, 256)
    assert (nb201.training.learning_rate, nb201.training.nesterov) == (0.1, True)
    darts = configure_evaluation(genotype=DARTS, recipe="darts")
    assert (darts.network.channels, darts.network.cells, darts.network.auxiliary) == (36, 20, 0.4)
    assert (darts.training.epochs, darts.data.batch_size, darts.data.cutout) == (600, 96, 16)
    assert (darts.network.drop_path, darts.training.learning_rate) == (0.2, 0.025)
    assert configure_evaluation(genotype=RESNET, recipe="nb201", seed=3).seed == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"recipe": "nb210"}, "recipe 'nb210' is unknown; did you mean 'nb201'"),
        ({"training": {"epoch": 3}}, "training.epoch'; did you mean 'epochs'"),
        ({"training": {"epochs": 0}}, "epochs must be at least 1"),
        ({"genotype": "|conv~0|"}, "conv"),
        ({"genotype": ""}, "genotype"),
        ({"genotype": "nowhere.txt"}, "neither an architecture nor a file"),
        ({"recipe": "darts"}, r"network.auxiliary needs a genotype of .*darts.*, not of nb201"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        configure_evaluation(**{"genotype": RESNET, **settings})
    assert "\n" not in str(caught.value)


def test_auxiliary_head_refuses_images_that_are_too_small_for_it() -> None:
    config = configure_evaluation(
        genotype=DARTS, network={"channels": 4, "cells": 3, "auxiliary": 0.4}
    )
    with pytest.raises(UserError, match="at least 29x29, those of digits have 16; 0 leaves"):
        Training(config, load("digits"), seed=0)


def test_genotype_is_read_from_text_file_or_run_folder(tmp_path: Path) -> None:
    (tmp_path / "genotype.txt").write_text(RESNET + "\n")
    for source in (RESNET, str(tmp_path / "genotype.txt"), str(tmp_path)):
        assert str(parse(source)) == RESNET


def test_learning_rate_falls_to_zero_after_its_rise() -> None:
    images = few_digits()
    rates = {}
    for schedule in ("cosine", "linear"):
        config = small(training={"epochs": 10, "warmup": 2, "schedule": schedule})
        training = Training(config, images, 0)
        rates[schedule] = [training.learning_rate(elapsed) for elapsed in (0, 1, 2, 6, 10)]
        assert rates[schedule][0] == pytest.approx(0.05 * 0.2 / 2)
        assert rates[schedule][2:] == pytest.approx([0.05, 0.025, 0], abs=1e-9)
    full = Training(small(training={"epochs": 10}), images, 0)
    assert full.learning_rate(2.5) == pytest.approx(0.05 * 0.8535534)


def test_learns_real_digits_and_names_every_number(tmp_path: Path) -> None:
    config = small(training={"epochs": 6}, out=str(tmp_path / "run"), seeds=2)
    seen: list[dict[str, Any]] = []
    images = load("digits")
    result = evaluate(config, images=images, report=lambda record: seen.append(dict(record)))
    assert min(result.top1) > 80  # chance is 10
    assert all(top5 > top1 for top1, top5 in zip(result.top1, result.top5, strict=True))
    assert [(r["seed"], r["epoch"]) for r in seen] == [(s, e) for s in (0, 1) for e in range(6)]
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == seen
    assert seen[-1]["test_top1"] == result.top1[1]
    training = Training(config, images, 1)
    training.net.load_state_dict(torch.load(tmp_path / "run" / "weights-1.pt", weights_only=True))
    assert training.test() == {"top1": result.top1[1], "top5": result.top5[1]}


def test_same_seed_same_numbers() -> None:
    images = few_digits()
    histories: list[list[dict[str, Any]]] = [[], [], []]
    for history, seed in zip(histories, (0, 0, 1), strict=True):
        evaluate(small(seed=seed), images=images, report=lambda r, h=history: h.append(dict(r)))  # type: ignore[misc]
    first, again, other = map(without_seconds, histories)
    assert first == again
    assert [r["loss"] for r in first] != [r["loss"] for r in other]


def test_stops_at_a_signal_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    images = few_digits()

    def run(out: str, stops: list[int], resume: bool = False) -> Evaluation:
        config = small(
            genotype=DARTS,
            network={"channels": 4, "cells": 3, "drop_path": 0.3},
            data={"batch_size": 32, "cutout": 4},
            out=str(tmp_path / out),
            seeds=2,
        )
        step = Training._step

        def interrupted(training: Training, batch: Any) -> Any:
            stops[0] -= 1
            if stops[0] == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(training, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Training, "_step", interrupted)
            return evaluate(config, images=images, resume=resume)

    whole = run("whole", [-1])
    with pytest.raises(Stopped):
        run("parts", [3])  # within the first epoch
    for stop in (4, 6):  # within the second epoch; within the second seed
        with pytest.raises(Stopped):
            run("parts", [stop], resume=True)
    parts = run("parts", [-1], resume=True)
    assert dataclasses.replace(parts, folder=None) == dataclasses.replace(whole, folder=None)
    assert parts.folder is not None
    assert json.loads((parts.folder / "result.json").read_text()) == parts.as_dict()
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert without_seconds(logs[0]) == without_seconds(logs[1])
    for seed in (0, 1):
        weights = [
            torch.load(tmp_path / name / f"weights-{seed}.pt", weights_only=True)
            for name in ("whole", "parts")
        ]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resume needs out"):
        evaluate(small(), images=few_digits(), resume=True)
    with pytest.raises(UserError, match="is not a run folder"):
        evaluate(small(out=str(tmp_path)), images=few_digits(), resume=True)


def test_divergence_names_epoch_and_step() -> None:
    config = small(training={"learning_rate": 1e30, "clip": 0})
    words = r"diverged at step \d of epoch \d; the training loss is (nan|inf); \S+ is not finite;"
    with pytest.raises(UserError, match=words):
        evaluate(config, images=few_digits())


def test_divergence_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    # A checkpoint after each step; the learning rate is sound in the first epoch only.
    config = small(checkpoint_minutes=1e-9, out=str(tmp_path / "run"))
    rate = Training.learning_rate

    def explode(training: Training, elapsed: float) -> float:
        return math.inf if elapsed >= 1.4 else rate(training, elapsed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "learning_rate", explode)
        words = r"step 3 of epoch 2; \S+ is not finite; .*checkpoint is \S+00000008\.ckpt\."
        with pytest.raises(UserError, match=words):
            evaluate(config, images=few_digits())
    resumed = evaluate(config, images=few_digits(), resume=True)
    undisturbed = evaluate(small(), images=few_digits())
    assert resumed.top1 == undisturbed.top1


def test_darts_recipe_trains_head_and_drop_path() -> None:
    config = small(
        genotype=DARTS,
        network={"channels": 4, "cells": 3, "auxiliary": 0.4, "drop_path": 0.2},
        training={"epochs": 4, "label_smoothing": 0.1},
    )
    images = few_digits(64)
    # The head expects maps of 8x8 after the second reduction, as on 32x32 images.
    large = ImageSet(
        "large",
        images.train_images.repeat_interleave(2, 2).repeat_interleave(2, 3),
        images.train_labels,
        images.test_images.repeat_interleave(2, 2).repeat_interleave(2, 3),
        images.test_labels,
    )
    training = Training(config, large, 0)
    assert isinstance(training.net, TwoInputNetwork)
    assert training.net.auxiliary is not None
    head = training.net.auxiliary[-1]
    assert isinstance(head, torch.nn.Linear)
    before = head.weight.detach().clone()
    training.run_epoch()
    assert training.net.drop_path == 0
    training.run_epoch()
    assert training.net.drop_path == pytest.approx(0.05)
    assert not torch.equal(head.weight, before)


def test_cost_is_the_benchmarks(shared: Path) -> None:
    config = configure_evaluation(genotype=RESNET, recipe="nb201")
    zeros = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images = ImageSet("cifar", zeros, torch.tensor([9]), zeros, torch.tensor([9]))
    parameters, multiply_adds = cost(config, images)
    table = Table.load(shared / "nb201.csv.gz")
    for arch in (RESNET, table.optimum().arch, table.all_skip.arch):
        parameters, _ = cost(configure_evaluation(genotype=arch, recipe="nb201"), images)
        assert parameters == table[arch].params
    assert 75e6 < multiply_adds < 85e6


def test_summary_gives_mean_and_deviation() -> None:
    measures = {"top1": [93.0, 94.0], "top5": [99.0, 99.5]}
    result = Evaluation(parse(RESNET), 1_234_567, 78_900_000, measures)
    assert result.summary() == (
        "top-1 93.50 ± 0.71 %, top-5 99.25 ± 0.35 % on held-out images, "
        "1.23 M parameters, 78.90 M multiply-adds"
    )


@pytest.mark.parametrize("genotype", [RESNET, DARTS], ids=["nb201", "darts"])
def test_trains_on_a_gpu_as_a_graph_and_without(
    genotype: str, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    network = {"channels": 4, "cells": 1 if genotype == RESNET else 3, "auxiliary": 0}
    config = small(genotype=genotype, network=network | {"drop_path": 0.2}, device=cuda.type)
    trained = []
    for warm_up in (3, 10**6):
        monkeypatch.setattr("darts.devices.capture.WARM_UP", warm_up)
        training = Training(config, few_digits(), seed=0)
        losses = [training.run_epoch()["loss"] for _ in range(2)]
        trained.append((losses, [p.detach() for p in training.net.parameters()]))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)
