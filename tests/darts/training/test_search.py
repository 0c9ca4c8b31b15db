import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from darts.config import SearchConfig
from darts.data import Batch, ImageSet, load
from darts.errors import UserError
from darts.methods import get_method
from darts.networks.genotype import Genotype
from darts.recipes import configure
from darts.results.run_folder import RunFolder
from darts.training.search import Callback, Result, Search, search


def tiny(**overrides: Any) -> SearchConfig:
    settings: dict[str, Any] = {"method": "edd", "epochs": 2, "data": {"batch_size": 128}}
    return configure(**(settings | {"supernet": {"channels": 4, "cells": 1}} | overrides))


@pytest.fixture(scope="module")
def images() -> Any:
    """A fifth of the digits."""
    digits = load("digits")
    few = {
        name: getattr(digits, name)[::5]
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }
    return dataclasses.replace(digits, **few)


def without_time(history: list[dict[str, Any]]) -> Any:
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in history]


@pytest.mark.parametrize("method", ["darts-v1", "edd"])
def test_the_same_seed_gives_the_same_bits(images: ImageSet, method: str) -> None:
    config = tiny(method=method, seed=3)
    first, second = Search(config, images=images), Search(config, images=images)
    a, b = first.run(), second.run()
    assert str(a.genotype) == str(b.genotype)
    assert without_time(a.history) == without_time(b.history)
    for x, y in zip(first.net.state_dict().values(), second.net.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_another_seed_gives_another_search(images: ImageSet) -> None:
    logits = [Search(tiny(seed=seed), images=images).method.logits["cell"] for seed in (0, 1)]
    assert not torch.equal(*logits)


def test_the_run_folder_holds_everything(images: ImageSet, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = search(tiny(out=str(out)), images=images)
    folder = RunFolder.open(out)
    assert configure(**folder.config) == result.config
    assert folder.records() == result.history
    assert Genotype.parse((out / "genotype.txt").read_text()) == result.genotype
    assert (out / "search.png").stat().st_size > 10_000
    state = torch.load(out / "weights.pt", weights_only=True)
    fresh = Search(tiny(), images=images)
    fresh.net.load_state_dict(state)


def test_the_log_says_what_happened(images: ImageSet) -> None:
    record = search(tiny(epochs=1), images=images).history[0]
    assert record["epoch"] == 0
    assert 0 < record["temperature"] <= 1
    assert 0 <= record["entropy"] <= math.log(5)
    assert 0 <= record["weight_accuracy"] <= 100
    rows = torch.tensor(record["weights"]["cell"])
    assert rows.shape == (6, 5)
    torch.testing.assert_close(rows.sum(1), torch.ones(6))
    assert len(record["gradient_norms"]["cell"]) == 6
    assert min(record["gradient_norms"]["cell"]) > 0


def test_alpha_and_weights_learn_from_their_own_halves(images: ImageSet) -> None:
    first = next(iter(Search(tiny(), images=images).batches.epoch()))
    second = [Batch(batch.images, batch.labels.roll(1)) for batch in first]

    def moved(weight_batch: Batch, arch_batch: Batch) -> tuple[Tensor, Tensor]:
        """α and ω after one step."""
        run = Search(tiny(), images=images)
        start = run.method.logits["cell"].detach().clone(), flat(run.net)
        run.method.begin_epoch(0)
        run.step(weight_batch, arch_batch)
        end = run.method.logits["cell"].detach(), flat(run.net)
        assert not any(torch.equal(a, b) for a, b in zip(start, end, strict=True))
        return end

    def flat(net: torch.nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    alpha, weights = moved(first[0], first[1])
    other_alpha, same_weights = moved(first[0], second[1])
    assert torch.equal(weights, same_weights)
    assert not torch.equal(alpha, other_alpha)
    assert not torch.equal(weights, moved(second[0], first[1])[1])


def test_alpha_rests_in_its_warmup(images: ImageSet) -> None:
    run = Search(tiny(arch={"warmup": 1}), images=images)
    before = run.method.logits["cell"].detach().clone()
    record = run.run_epoch()
    assert torch.equal(before, run.method.logits["cell"])
    assert "arch_loss" not in record
    run.run_epoch()
    assert not torch.equal(before, run.method.logits["cell"])


def test_the_learning_rate_is_a_cosine(images: ImageSet) -> None:
    run = Search(tiny(method="darts-v1", epochs=4), images=images)
    rates = [run.method.learning_rate(epoch) for epoch in (0, 2, 4, 5)]
    assert rates == pytest.approx([0.025, 0.013, 0.001, 0.001])


def test_the_learning_rate_is_the_same_in_all_steps_of_an_epoch(images: ImageSet) -> None:
    rates: list[float] = []

    class Watch(Callback):
        def stepped(self, search: Search, step: int, steps: int) -> None:
            rates.append(float(search.optimizer.param_groups[0]["lr"]))

    config = tiny(method="darts-v1", epochs=2, data={"batch_size": 32})
    run = Search(config, images=images, callbacks=[Watch()])
    steps = run.batches.steps
    assert steps > 1
    run.run()
    assert rates == pytest.approx([0.025] * steps + [0.013] * steps)


def test_a_loss_that_is_no_number_is_reported(images: ImageSet) -> None:
    run = Search(tiny(), images=images)
    with torch.no_grad():
        next(iter(run.net.parameters())).fill_(torch.nan)
    with pytest.raises(UserError, match="diverged at step 1 of epoch 1; the training loss is nan"):
        run.run()


def test_bfloat16_keeps_beta_and_losses_in_float32(images: ImageSet) -> None:
    losses = {}
    for precision in ("bfloat16", "float32"):
        supernet = {"channels": 4, "cells": 1, "precision": precision}
        run = Search(tiny(supernet=supernet), images=images)
        weight_batch, arch_batch = next(iter(run.batches.epoch()))
        step = run.step(weight_batch, arch_batch)
        assert step.dtype == run.method.logits["cell"].dtype == torch.float32
        losses[precision] = step[0].item()
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)


def test_zero_skip_changes_nothing_but_time(images: ImageSet) -> None:
    """One exact zero in β: same losses, same weights after a step."""
    states, computed = [], []
    for skip in (True, False):
        supernet = {"channels": 4, "cells": 1, "zero_skip": skip}
        run = Search(tiny(method="darts-v1", supernet=supernet), images=images)
        weight_batch, arch_batch = next(iter(run.batches.epoch()))
        with torch.no_grad():
            run.method.logits["cell"][:, 2] = -1e4
        assert (run.method.weights()["cell"][:, 2] == 0).all()
        run.net.register_forward_pre_hook(lambda net, inputs: computed.append(inputs[2]))
        run.step(weight_batch, arch_batch)
        states.append(list(run.net.parameters()))
    skipping, arch, *others = computed
    assert [row[2] for row in skipping["cell"]] == [False] * 6
    assert [arch, *others] == [None] * 3
    for p, q in zip(*states, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_callbacks_see_every_epoch_and_step(images: ImageSet) -> None:
    seen: list[Any] = []

    class Witness(Callback):
        def started(self, search: Search) -> None:
            seen.append("started")

        def stepped(self, search: Search, step: Any, steps: int) -> None:
            seen.append((step, steps))

        def epoch_ended(self, search: Search, record: dict[str, Any]) -> None:
            seen.append(record["epoch"])

        def ended(self, search: Search, result: Result) -> None:
            seen.append(str(result.genotype))

    result = search(tiny(epochs=1), images=images, callbacks=[Witness()])
    assert seen == ["started", (1, 1), 0, str(result.genotype)]


def test_a_methods_state_survives_saving(images: ImageSet, tmp_path: Path) -> None:
    run = Search(tiny(epochs=4), images=images)
    for _ in range(2):
        run.run_epoch()
    torch.save(run.method.state_dict(), tmp_path / "state.pt")
    other: Any = get_method("edd")(run.space, run.config)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.logits["cell"], run.method.logits["cell"])
    method: Any = run.method
    assert other.decay == method.decay
    assert other.epoch == 1
    run.method.begin_epoch(2)
    other.begin_epoch(2)
    assert torch.equal(other.temperature, run.method.temperature)
    assert other.temperature < 1


class Killed(Exception):
    """Stands for the end of the process between two steps."""


class Killer(Callback):
    def __init__(self, after: int) -> None:
        self.left = after

    def stepped(self, search: Search, step: Any, steps: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5])
def test_an_interrupted_search_goes_on_with_the_same_bits(
    images: ImageSet, tmp_path: Path, after: int
) -> None:
    settings = {"data": {"batch_size": 64}, "epochs": 3, "checkpoint_minutes": 1e-9}
    whole = Search(tiny(**settings), images=images)
    expected = whole.run()
    config = tiny(**settings, out=str(tmp_path / "run"))
    with pytest.raises(Killed):
        search(config, images=images, callbacks=[Killer(after)])
    torch.manual_seed(99)
    resumed = Search(config, images=images, resume=True)
    result = resumed.run()
    assert without_time(result.history) == without_time(expected.history)
    assert result.genotype == expected.genotype
    for p, q in zip(resumed.method.parameters(), whole.method.parameters(), strict=True):
        assert torch.equal(p, q)
    assert RunFolder.open(config.out).records() == result.history


def test_evaluation_uses_batch_statistics_and_leaves_no_trace(images: ImageSet) -> None:
    run = Search(tiny(data={"batch_size": 32}), images=images)
    run.run_epoch()
    run.net.drop_path = 0.3
    before = {name: value.clone() for name, value in run.net.state_dict().items()}
    weights = run.method.scores()
    first, again = run.evaluate(weights), run.evaluate(weights)
    assert first == again
    assert 0 <= first[1] <= 100
    assert run.evaluate(weights, images=32) != first
    assert run.net.drop_path == 0.3
    for name, value in run.net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_resumed_run_takes_the_threads_that_it_began_with(
    images: ImageSet, tmp_path: Path
) -> None:
    """Another number of threads rounds differently, so that the bits would differ."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        config = tiny(out=str(tmp_path / "run"), epochs=1)
        search(config, images=images)
        about = json.loads((tmp_path / "run" / "environment.json").read_text())
        assert (about["threads"], about["torch"]) == (2, torch.__version__)
        torch.set_num_threads(1)
        Search(config, images=images, resume=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
