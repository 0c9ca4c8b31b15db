"""Write a trained network for use elsewhere.

The suffix decides the format: .pt (genotype and state_dict), .pt2 (torch.export), .onnx. The
network takes uint8 images; normalisation is a part of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from darts.plugins import attribute
from darts.training.export import export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The evaluation and the target."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of an evaluation")
    parser.add_argument("target", type=Path, help="file to write: .pt, .pt2 or .onnx")
    parser.add_argument(
        "--adapt", metavar="MODULE:FUNCTION", help="what network.adapt of the training named"
    )
    parser.add_argument("--seed", type=int, help="which training [the first]")


def run(arguments: argparse.Namespace) -> int:
    """Write the file and print its path."""
    adapt = attribute(arguments.adapt, "adapt") if arguments.adapt else None
    print(export(arguments.folder, arguments.target, seed=arguments.seed, adapt=adapt))
    return 0
