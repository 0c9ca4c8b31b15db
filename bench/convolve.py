"""Time convolutions that share their input against PyTorch's, one by one.

    python -m bench.convolve [--runs N] [--json PATH]

On the CPU, in float32 and bfloat16, at the shapes of a NAS-Bench-201 search (C=16, batch 64): the
three edges that leave a cell's input, by kernel size, alone and with the batch normalisation of
their results as a search's nodes make it; and those of stride 2 between stages. Ours take bfloat16
maps with float32 weights, PyTorch's with bfloat16 ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.maps import Case, draw, main
from darts.supernet.mixture import SharedMap, Summand, mix
from snsoftmax import reference
from snsoftmax.convolve import convolve, convolve_strided, convolve_to_normalize

BATCH, EDGES = 64, 3
SHAPES = [(16, 32), (32, 16), (64, 8)]


def theirs(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """PyTorch's convolutions."""
    return reference.convolve(x, [w.to(x.dtype) for w in weights])


def ours_strided(x: Tensor, weight: Tensor) -> list[Tensor]:
    """Our convolution of stride 2."""
    return [convolve_strided(x, weight)]


def theirs_strided(x: Tensor, weight: Tensor) -> list[Tensor]:
    """PyTorch's."""
    return reference.convolve(x, [weight.to(x.dtype)], 2)


def ours_normalized(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Each result through a node that reads it alone."""
    one = torch.ones(1)
    maps = [SharedMap.convolved(y) for y in convolve_to_normalize(x, weights, True)]
    return [mix([Summand(y, True, 0, y.map.shape[1])], one, True) for y in maps]


def theirs_normalized(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """PyTorch's convolutions and batch normalisation."""
    return [F.batch_norm(y, None, None, training=True) for y in theirs(x, weights)]


def cases(device: torch.device) -> Iterator[Case]:
    """Every shape with both kernel sizes."""
    if device.type != "cpu":
        raise SystemExit("bench.convolve measures the CPU's own kernels; leave out --device.")
    for dtype, kernel in product((torch.float32, torch.bfloat16), (1, 3)):
        for channels, size in SHAPES:
            x = draw(BATCH, channels, size, size, dtype=dtype, device=device)
            shape = channels, channels, kernel, kernel
            weights = [draw(*shape, dtype=torch.float32, device=device) for _ in range(EDGES)]

            given = x, weights
            name = f"{kernel}x{kernel}, {channels}@{size}x{size}"
            of = str(dtype).split(".")[1]
            yield Case(name, of, [x, *weights], partial(convolve, *given), partial(theirs, *given))
            both = partial(ours_normalized, *given), partial(theirs_normalized, *given)
            yield Case(f"{name}, normalised", of, [x, *weights], *both)
    for dtype, (channels, size) in product((torch.float32, torch.bfloat16), SHAPES[:2]):
        x = draw(BATCH, channels, size, size, dtype=dtype, device=device)
        weight = draw(2 * channels, channels, 3, 3, dtype=torch.float32, device=device)
        name, of = f"3x3, {channels}@{size}x{size}, stride 2", str(dtype).split(".")[1]
        both = partial(ours_strided, x, weight), partial(theirs_strided, x, weight)
        yield Case(name, of, [x, weight], *both)


if __name__ == "__main__":
    main("convolve", __doc__, cases)
