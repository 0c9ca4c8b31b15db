"""Time the depthwise convolution against PyTorch's.

    python -m bench.depthwise [--device cpu|cuda] [--runs N] [--json PATH]

At the shapes of a search of the DARTS space (C=16, batch 64): the four depthwise convolutions of
its candidates in a normal cell, and those of stride 2, for one edge and for the four that leave a
cell's inputs; and all four kinds of these edges together, as a node's map is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch

from bench.maps import Case, draw, main
from snsoftmax import reference
from snsoftmax.depthwise import depthwise

BATCH = 64
SHAPES = [(16, 32), (32, 16), (64, 8)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cases(device: torch.device) -> Iterator[Case]:
    """Every kind in every dtype; the smaller maps in float32 with a 3x3 kernel only."""
    kinds = product(DTYPES.items(), (3, 5), ((1, 1), (1, 2), (2, 1)), (1, 4))
    for (name, dtype), kernel, (stride, dilation), edges in kinds:
        for channels, size in SHAPES[: 3 if kernel == 3 and name == "float32" else 1]:
            x = draw(BATCH, channels, size, size, dtype=dtype, device=device)
            shape = channels, 1, kernel, kernel
            weights = [draw(*shape, dtype=torch.float32, device=device) for _ in range(edges)]
            case = f"{kernel}x{kernel}, stride {stride}, dilation {dilation}, "
            case += f"{channels}@{size}x{size}, {edges} edge{'s' if edges > 1 else ''}"
            arguments = x, weights, stride, [dilation] * edges
            ours, theirs = partial(depthwise, *arguments), partial(reference.depthwise, *arguments)
            yield Case(case, name, [x, *weights], ours, theirs)
    for (name, dtype), stride in product(DTYPES.items(), (1, 2)):
        channels, size = SHAPES[0]
        x = draw(BATCH, channels, size, size, dtype=dtype, device=device)
        windows = [window for window in product((3, 5), (1, 2)) for _ in range(4)]
        weights = [draw(channels, 1, k, k, dtype=torch.float32, device=device) for k, _ in windows]
        arguments = x, weights, stride, [dilation for _, dilation in windows]
        ours, theirs = partial(depthwise, *arguments), partial(reference.depthwise, *arguments)
        case = f"all four, stride {stride}, {channels}@{size}x{size}, 4 edges"
        yield Case(case, name, [x, *weights], ours, theirs)


if __name__ == "__main__":
    main("depthwise", __doc__, cases)
