"""The trained network of an evaluation, for use elsewhere.

>>> from darts.training.export import load_network
>>> net = load_network("runs/evaluation")  # a plain nn.Module in evaluation mode
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darts.data import Folders
from darts.errors import UserError
from darts.files import atomic_write
from darts.networks.network import build_network
from darts.results.run_folder import RunFolder
from darts.training.evaluate import load_config_data
from darts.training.evaluation_config import configure, parse

FORMATS = {
    ".pt": "dictionary of the genotype, the sizes, the normalisation and the state_dict",
    ".pt2": "torch.export program",
    ".onnx": "ONNX model",
}
"""What each suffix stands for."""


class Deployed(nn.Module):
    """A network that takes images as they are.

    ``forward``: images, uint8 or floating in [0, 255], [batch, 3, height, width] → logits,
    [batch, classes]. The normalisation of the training is a part of it.
    """

    def __init__(self, net: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", mean[:, None, None] * 255)
        self.register_buffer("deviation", deviation[:, None, None] * 255)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.net((images.to(self.mean.dtype) - self.mean) / self.deviation)
        return logits


def load_network(run: str | os.PathLike[str], *, seed: int | None = None) -> Deployed:
    """The trained network of an evaluation's run folder, in evaluation mode on the CPU.

    Args:
        run: folder of a finished `python -m darts evaluate`.
        seed: which training, if there were several; the first by default.

    Raises:
        UserError: the folder is not that of an evaluation, or that training is not finished.
    """
    folder = RunFolder.open(run)
    if "genotype" not in folder.config:
        raise UserError(f"{folder.path} is not the run folder of an evaluation.")
    config = configure(**folder.config)
    seed = config.seed if seed is None else seed
    weights = folder.path / f"weights-{seed}.pt"
    if not weights.is_file():
        raise UserError(f"{weights} is missing: the training with seed {seed} is not finished.")
    state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    images = load_config_data(config)
    net = build_network(
        parse(config.genotype),
        channels=config.network.channels,
        cells=config.network.cells,
        classes=images.classes,
        large=isinstance(images, Folders),
    )
    # The auxiliary head is for training alone.
    net.load_state_dict({k: v for k, v in state.items() if not k.startswith("auxiliary.")})
    return Deployed(net, *images.normalization()).eval()


def export(run: str | os.PathLike[str], target: Path, *, seed: int | None = None) -> Path:
    """Write an evaluation's trained network in the format of the target's suffix (`FORMATS`).

    Programs and models take any batch size, and images of the size that the network was trained
    on. The file is written whole or not at all.

    Raises:
        UserError: see `load_network`; or the suffix is unknown, or ONNX's packages are missing.
    """
    if target.suffix not in FORMATS:
        raise UserError(f"target {str(target)!r} must end in {', '.join(FORMATS)}.")
    net = load_network(run, seed=seed)
    config = configure(**RunFolder.open(run).config)
    with atomic_write(target) as file:
        if target.suffix == ".pt":
            content = {
                "genotype": str(parse(config.genotype)),
                "channels": config.network.channels,
                "cells": config.network.cells,
                "mean": net.mean.flatten() / 255,
                "deviation": net.deviation.flatten() / 255,
                "state_dict": net.net.state_dict(),
            }
            torch.save(content, file)
            return target
        example = torch.zeros(2, *load_config_data(config).shape, dtype=torch.uint8)
        batch = {"images": {0: torch.export.Dim("batch", min=1)}}
        program = torch.export.export(net, (example,), dynamic_shapes=batch)
        if target.suffix == ".pt2":
            metadata = {"genotype.json": json.dumps(str(parse(config.genotype)))}
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
