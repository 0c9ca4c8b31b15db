"""Parts of a user's own around the cells: stem, head, loss, images, classes and spaces given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import darts
from darts.data import ImageSet
from darts.errors import UserError
from darts.plugins import attribute
from darts.spaces import NB201_WITHOUT_NONE, SPACES

DARTS_CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), "
    "('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), "
    "('skip_connect', 1)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1)], "
    "reduce_concat=[2, 3, 4, 5])"
)
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|skip_connect~0|skip_connect~1|none~2|"


def images(channels: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> Tensor:
        shape = count, channels, 9, 8
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return ImageSet("noise", draw(32), torch.arange(32) % 3, draw(9), torch.arange(9) % 3)


def adapt(net: Any) -> None:
    """Another stem, and a loss that is a thousand times the usual one."""
    body = getattr(net, "skeleton", net)
    old = body.stem[0]
    body.stem[0] = nn.Conv2d(old.in_channels, old.out_channels, 5, padding=2, bias=False)
    net.criterion = thousandfold


def thousandfold(logits: Tensor, labels: Tensor) -> Tensor:
    return 1000 * F.cross_entropy(logits, labels)


HERE = f"{__name__}:adapt"


@pytest.mark.parametrize("space", ["nb201", "darts"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_images_of_any_number_of_channels_go_all_the_way(
    channels: int, space: str, tmp_path: Path
) -> None:
    data = images(channels)
    assert data.shape[0] == (3 if channels == 1 else channels)
    config = darts.configure(
        method="edd",
        space=space,
        epochs=1,
        data={"batch_size": 8},
        supernet={"channels": 4, "cells": 1 if space == "nb201" else 3},
    )
    darts.search(config, images=data)
    settings = darts.configure_evaluation(
        genotype=CELL if space == "nb201" else DARTS_CELL,
        out=str(tmp_path / "run"),
        data={"batch_size": 8},
        network={"channels": 4, "cells": 1 if space == "nb201" else 3},
        training={"epochs": 1},
    )
    darts.evaluate(settings, images=data)
    net = darts.load_network(tmp_path / "run")
    assert net(data.test_images).shape == (9, 3)


def test_what_adapt_puts_in_is_trained_and_resumed(tmp_path: Path) -> None:
    config = darts.configure(
        method="darts-v1",
        epochs=2,
        out=str(tmp_path / "run"),
        data={"batch_size": 8},
        supernet={"channels": 4, "cells": 1, "adapt": HERE},
    )
    search = darts.Search(config, images=images(3))
    before = search.net.get_parameter("skeleton.stem.0.weight").detach().clone()
    assert before.shape[-1] == 5
    result = search.run()
    assert not torch.equal(search.net.get_parameter("skeleton.stem.0.weight"), before)
    assert result.history[0]["weight_loss"] > 500
    assert result.history[0]["arch_loss"] > 500
    again = darts.search(config, images=images(3), resume=True)
    assert again.genotype == result.genotype


def test_a_trained_network_asks_for_what_changed_it(tmp_path: Path) -> None:
    settings = darts.configure_evaluation(
        genotype=CELL,
        out=str(tmp_path / "run"),
        data={"batch_size": 8},
        network={"channels": 4, "cells": 1, "adapt": HERE},
        training={"epochs": 1, "learning_rate": 1e-4},
    )
    darts.evaluate(settings, images=images(3))
    with pytest.raises(UserError, match=f"adapt must be given: {HERE} changed the network"):
        darts.load_network(tmp_path / "run")
    net = darts.load_network(tmp_path / "run", adapt=adapt).net
    assert net.get_parameter("stem.0.weight").shape[-1] == 5
    target = darts.export(tmp_path / "run", tmp_path / "net.pt", adapt=adapt)
    with pytest.raises(UserError, match="adapt must be given"):
        darts.load_network(target)
    darts.load_network(target, adapt=adapt)


def test_a_function_that_is_not_there_is_named() -> None:
    for name in ("adapt", f"{__name__}:missing"):
        with pytest.raises(UserError, match="must be MODULE:NAME, and MODULE must have NAME"):
            attribute(name, "supernet.adapt")
    with pytest.raises(UserError, match="cannot be imported"):
        attribute("no_such_module:adapt", "supernet.adapt")


@pytest.fixture
def cleared() -> Iterator[None]:
    yield
    darts.METHODS.pop("twice", None)
    SPACES.pop("mine", None)


def test_a_space_and_a_method_may_be_given_themselves(cleared: None) -> None:
    def cell() -> type[darts.Method]:
        @darts.register("twice", "run again, as in a notebook")
        class Twice(darts.Method):
            pass

        return Twice

    first, second = cell(), cell()
    assert first is not second
    assert darts.get_method("twice") is second
    config = darts.configure(method=second, space=NB201_WITHOUT_NONE)
    assert (config.method, config.space) == ("twice", "nb201-without-none")
    with pytest.raises(ValueError, match="is taken by darts"):

        @darts.register("edd", "another class of that name")
        class Other(darts.Method):
            pass

    own = dataclasses.replace(NB201_WITHOUT_NONE, name="mine")
    assert darts.configure(space=own).space == "mine"
    net = darts.build_supernet("nb201", channels=4, cells=1, classes=3)
    assert net.space is darts.get_space("nb201")
    with pytest.raises(UserError, match="space='nb301' is unknown"):
        darts.build_supernet("nb301", channels=4, cells=1, classes=3)
