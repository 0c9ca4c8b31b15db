"""The trained network of an evaluation, for use elsewhere.

>>> from darts.training.export import load_network
>>> net = load_network("runs/evaluation")  # a plain nn.Module in evaluation mode
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darts.errors import UserError
from darts.files import atomic_write
from darts.networks.network import build_network
from darts.results.run_folder import RunFolder
from darts.training.evaluation_config import configure_evaluation, parse

FORMATS = {
    ".pt": "dictionary of all that `load_network` needs: genotype, sizes, normalisation, weights",
    ".pt2": "torch.export program",
    ".onnx": "ONNX model",
}
"""What each suffix stands for."""


class Deployed(nn.Module):
    """A network that takes images as they are.

    ``forward``: images, uint8 or floating in [0, 255], [batch, 3, height, width] → logits,
    [batch, classes], or predictions, [batch, numbers], in the labels' own units. The
    normalisation of the training is a part of it.

    Args:
        net: the network.
        mean: of each channel, [C], for pixels in [0, 1].
        deviation: likewise.
        unit: mean and deviation of numbers that images are labelled with, [2, K]; None for others.
    """

    def __init__(
        self, net: nn.Module, mean: Tensor, deviation: Tensor, unit: Tensor | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.deviation: Tensor
        self.unit: Tensor | None
        self.register_buffer("unit", unit)
        self.register_buffer("mean", mean[:, None, None] * 255)
        self.register_buffer("deviation", deviation[:, None, None] * 255)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.net((images.to(self.mean.dtype) - self.mean) / self.deviation)
        return logits if self.unit is None else logits * self.unit[1] + self.unit[0]


Adapt = Callable[[nn.Module], object]
"""What changed a network before it trained: `network.adapt`."""


def load_network(
    run: str | os.PathLike[str], *, seed: int | None = None, adapt: Adapt | None = None
) -> Deployed:
    """The trained network of an evaluation, in evaluation mode on the CPU.

    Args:
        run: folder of a finished `python -m darts evaluate`, or a `.pt` file that `export` made.
            Either can lie anywhere; the images that were trained on are not needed.
        seed: which training, if there were several; the first by default.
        adapt: the function that `network.adapt` named, if one did. It is not imported by the name
            that the file holds, which may be a stranger's.

    Raises:
        UserError: it is neither, that training is not finished, or `adapt` is missing.
    """
    path = Path(run)
    if path.suffix == ".pt" and path.is_file():
        if seed is not None:
            raise UserError(f"seed={seed}: {path} holds one network; leave it out.")
        return _deployed(torch.load(path, map_location="cpu", weights_only=True), adapt)
    return _deployed(_content(path, seed), adapt)


def _content(run: Path, seed: int | None) -> dict[str, Any]:
    """Everything that makes the network of a run folder, as a `.pt` file holds it."""
    folder = RunFolder.open(run)
    if "genotype" not in folder.config:
        raise UserError(f"{folder.path} is not the run folder of an evaluation.")
    config = configure_evaluation(**folder.config)
    seed = config.seed if seed is None else seed
    weights = folder.path / f"weights-{seed}.pt"
    if not weights.is_file():
        raise UserError(f"{weights} is missing: the training with seed {seed} is not finished.")
    images = folder.path / "images.json"
    if not images.is_file():
        raise UserError(f"{images} is missing: an older version of darts made the folder.")
    described: dict[str, Any] = json.loads(images.read_text(encoding="utf-8"))
    state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    return {
        "genotype": config.genotype,
        "channels": config.network.channels,
        "cells": config.network.cells,
        "adapt": config.network.adapt,
        **{name: described[name] for name in ("classes", "shape", "large")},
        **{name: torch.tensor(described[name]) for name in ("mean", "deviation")},
        # Folders of versions that knew classes alone do not say it.
        "unit": torch.tensor(described["unit"]) if described.get("unit") else None,
        # The auxiliary head is for training alone.
        "state_dict": {k: v for k, v in state.items() if not k.startswith("auxiliary.")},
    }


def _deployed(content: Mapping[str, Any], adapt: Adapt | None) -> Deployed:
    sizes = {name: content[name] for name in ("channels", "cells", "classes", "large")}
    net = build_network(parse(content["genotype"]), **sizes, colours=content["shape"][0])
    if content["adapt"] and adapt is None:
        # Nothing that a file names is imported: the file may be a stranger's.
        raise UserError(f"adapt must be given: {content['adapt']} changed the network.")
    if adapt is not None:
        adapt(net)
    net.load_state_dict(content["state_dict"])
    return Deployed(net, content["mean"], content["deviation"], content.get("unit")).eval()


def export(
    run: str | os.PathLike[str],
    target: Path,
    *,
    seed: int | None = None,
    adapt: Adapt | None = None,
) -> Path:
    """Write an evaluation's trained network in the format of the target's suffix (`FORMATS`).

    Programs and models take any batch size, and images of the size that the network was trained
    on. The file is written whole or not at all.

    Raises:
        UserError: see `load_network`; or the suffix is unknown, or ONNX's packages are missing.
    """
    if target.suffix not in FORMATS:
        raise UserError(f"target {str(target)!r} must end in {', '.join(FORMATS)}.")
    content = _content(Path(run), seed)
    with atomic_write(target) as file:
        if target.suffix == ".pt":
            torch.save(content, file)
            return target
        example = torch.zeros(2, *content["shape"], dtype=torch.uint8)
        batch = {"images": {0: torch.export.Dim("batch", min=1)}}
        program = torch.export.export(_deployed(content, adapt), (example,), dynamic_shapes=batch)
        if target.suffix == ".pt2":
            metadata = {"genotype.json": json.dumps(content["genotype"])}
            torch.export.save(program, file, extra_files=metadata)
        else:
            file.write(_onnx(program))
    return target


def _onnx(program: torch.export.ExportedProgram) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("ONNX needs its packages: pip install onnx onnxscript.") from error
    model: Any = torch.onnx.export(
        program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
    )
    content: bytes = model.model_proto.SerializeToString()
    return content
