"""What one process and two must agree on, in float64: `parallel_cases FILE` as a module.

Under `torchrun` the first process writes the file.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from darts.data import Batch, ImageSet, load
from darts.devices import parallel
from darts.methods.hessian import largest_eigenvalue
from darts.networks.normalization import BatchNorm2d
from darts.recipes import configure
from darts.training.evaluation_config import configure_evaluation
from darts.training.scratch import Training
from darts.training.search import Search

SEARCHES: dict[str, dict[str, Any]] = {
    "edd": {"method": "edd"},
    "gdas": {"method": "gdas"},
    "darts-v1": {"method": "darts-v1"},
    "pc-darts": {"method": "pc-darts"},
    "second-order": {"method": "darts-v2"},
    "exact-second-order": {"method": "darts-v2", "options": {"exact": True}},
    "attack": {"method": "sdarts-adv", "options": {"steps": 2}},
    "dropped-paths": {"method": "r-darts-dp"},
    "darts-space": {"method": "darts-v1", "space": "darts", "supernet": {"cells": 3}},
    "noise": {"method": "darts-v1", "space": "s4", "supernet": {"cells": 3}},
}
STEPS = 2
GENOTYPE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_3x3', 0), "
    "('skip_connect', 1), ('avg_pool_3x3', 0), ('skip_connect', 1), ('nor_conv_3x3', 0), "
    "('skip_connect', 1)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def double(batch: Batch) -> Batch:
    return Batch(batch.images.double(), batch.labels)


def few_digits(enlarged: int = 1) -> ImageSet:
    digits = load("digits")

    def images(some: Tensor) -> Tensor:
        return some.repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)

    return ImageSet(
        "few digits",
        images(digits.train_images[:80]),
        digits.train_labels[:80],
        images(digits.test_images[:41]),
        digits.test_labels[:41],
        flip=False,
    )


def searched(overrides: dict[str, Any]) -> dict[str, Any]:
    """Losses, α, ω and decisions' inputs of a few steps."""
    config = configure(
        **{
            "epochs": 3,
            "data": {"batch_size": 16, "cutout": 0},
            "arch": {"warmup": 0},
            **overrides,
            "supernet": {"channels": 4, "cells": 1, **overrides.get("supernet", {})},
        }
    )
    search = Search(config, images=few_digits())
    search.method.begin_epoch(1)  # paths are dropped from the second epoch on
    search.method.prepare(search.net)
    search.net.train()
    losses = []
    for _, (weight_batch, arch_batch) in zip(range(STEPS), search.batches.epoch(), strict=False):
        losses.append(search.step(double(weight_batch), double(arch_batch)))
    return {
        "losses": torch.stack(losses),
        "alpha": [p.detach() for p in search.method.parameters()],
        "omega": search.net.state_dict(),
        "random": torch.rand(()),
    }


def measured() -> dict[str, Any]:
    """What decisions between epochs are made by, in the arithmetic of a search."""
    config = configure(
        method="darts-es",
        space="s4",
        epochs=3,
        data={"batch_size": 16},
        supernet={"channels": 4, "cells": 3},
    )
    search = Search(config, images=few_digits())
    loss = lambda: search.validation_loss(search.method.weights())  # noqa: E731
    return {
        "accuracy": torch.tensor(search.evaluate(search.method.scores())),
        "part": torch.tensor(search.evaluate(search.method.scores(), images=17)),
        "loss": loss().detach(),
        "eigenvalue": torch.tensor(
            largest_eigenvalue(loss, search.method.parameters()[:1], iterations=3)
        ),
        "random": torch.rand(()),
    }


def trained() -> dict[str, Any]:
    """A few steps of a found network, and its test."""
    config = configure_evaluation(
        genotype=GENOTYPE.replace("nor_conv", "sep_conv"),
        network={"channels": 4, "cells": 3, "auxiliary": 0.4, "drop_path": 0.3},
        training={"epochs": 2},
        data={"batch_size": 16},
    )
    training = Training(config, few_digits(enlarged=2), seed=0)  # for the auxiliary head
    training.net.double().train()
    training.net.drop_path = 0.3  # type: ignore[assignment]
    forward = training._forward
    # A training is in float32 by design; only the steps are made in double.
    training._forward = lambda images: forward(images.double())  # type: ignore[method-assign]
    steps = zip(range(STEPS), training.batches.epoch(), strict=False)
    outcomes = [training._step(batch) for _, batch in steps]
    return {
        "losses": torch.stack(outcomes),
        "omega": training.net.state_dict(),
        "test": torch.tensor(list(training.test().values())),
        "random": torch.rand(()),
    }


def normalized() -> dict[str, Any]:
    """A batch normalisation with its first and second derivatives, far from zero."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 3, 4, 5, generator=generator)
    whole = whole * torch.tensor([1.0, 1e-3, 2.0])[:, None, None] + 10
    coefficients = torch.randn(6, 3, 4, 5, generator=generator)
    layer = BatchNorm2d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
        layer.bias.copy_(torch.tensor([0.5, 0.0, 1.0]))
    x = parallel.own(whole).requires_grad_()
    y = layer(x)
    loss = parallel.average((parallel.own(coefficients) * y.square()).mean())
    grad_x, grad_weight = torch.autograd.grad(loss, [x, layer.weight], create_graph=True)
    penalty = parallel.average(grad_x.square().sum())
    (second,) = torch.autograd.grad(penalty, x)
    return {
        "loss": loss.detach(),
        "weight": parallel.average(grad_weight.detach()),
        # Of the sum of the processes' losses and penalties, which are the same on each.
        "rows": gathered(
            {"y": y, "first": grad_x / parallel.world(), "second": second / parallel.world() ** 2},
            rows=6,
        ),
        "running": [layer.running_mean, layer.running_var],
        "batches": layer.num_batches_tracked,
    }


def gathered(own: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Rows of all processes in the order of the whole batch."""
    whole = {}
    for name, mine in own.items():
        full = torch.zeros(rows, *mine.shape[1:])
        full[parallel.rank() :: parallel.world()] = mine.detach()
        whole[name] = parallel.total(full)
    return whole


def results() -> dict[str, Any]:
    """Everything; α, ω and the images' arithmetic are float64."""
    torch.set_default_dtype(torch.float64)
    try:
        found: dict[str, Any] = {name: searched(case) for name, case in SEARCHES.items()}
        found |= {"training": trained(), "normalization": normalized()}
    finally:
        torch.set_default_dtype(torch.float32)
    return found | {"decisions": measured()}


if __name__ == "__main__":
    parallel.join("cpu")
    found = results()
    if parallel.rank() == 0:
        torch.save(found, sys.argv[1])
