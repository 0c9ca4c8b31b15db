"""Time convolutions that share their input against PyTorch's, one by one.

    python -m bench.convolve [--runs N] [--json PATH]

On the CPU, in float32 and bfloat16, at the shapes of a NAS-Bench-201 search (C=16, batch 64): the
three edges that leave a cell's input, by kernel size. Ours take bfloat16 maps with float32 weights,
PyTorch's with bfloat16 ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from bench.maps import Case, draw, main
from snsoftmax import reference
from snsoftmax.convolve import convolve

BATCH, EDGES = 64, 3
SHAPES = [(16, 32), (32, 16), (64, 8)]


def cases(device: torch.device) -> Iterator[Case]:
    """Every shape with both kernel sizes."""
    if device.type != "cpu":
        raise SystemExit("bench.convolve measures the CPU's own kernels; leave out --device.")
    for dtype, kernel in product((torch.float32, torch.bfloat16), (1, 3)):
        for channels, size in SHAPES:
            x = draw(BATCH, channels, size, size, dtype=dtype, device=device)
            shape = channels, channels, kernel, kernel
            weights = [draw(*shape, dtype=torch.float32, device=device) for _ in range(EDGES)]

            def ours(x: Tensor = x, weights: list[Tensor] = weights) -> Sequence[Tensor]:
                return convolve(x, weights)

            def theirs(x: Tensor = x, weights: list[Tensor] = weights) -> Sequence[Tensor]:
                return reference.convolve(x, [w.to(x.dtype) for w in weights])

            name = f"{kernel}x{kernel}, {channels}@{size}x{size}"
            yield Case(name, str(dtype).split(".")[1], [x, *weights], ours, theirs)


if __name__ == "__main__":
    main("convolve", __doc__, cases)
