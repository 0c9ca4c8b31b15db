"""Time the ReLU and average of a map against PyTorch's operators.

    python -m bench.rectify_average [--device cpu|cuda] [--runs N] [--json PATH]

At the shapes of a NAS-Bench-201 search (C=16, batch 64): a node that is read three times through
the ReLU, and whose average is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.maps import Case, draw, main
from snsoftmax import reference
from snsoftmax.rectify_average import rectify_average

BATCH, READERS = 64, 3
SHAPES = [(16, 32), (32, 16), (64, 8)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cases(device: torch.device) -> Iterator[Case]:
    """Every shape in every dtype."""
    for name, dtype in DTYPES.items():
        for channels, size in SHAPES:
            x = draw(BATCH, channels, size, size, dtype=dtype, device=device)

            def ours(x: Tensor = x) -> Sequence[Tensor]:
                _, averaged, rectified = rectify_average(x, READERS, True)
                return averaged, *rectified

            def theirs(x: Tensor = x) -> Sequence[Tensor]:
                rectified, averaged = reference.rectify_average(x)
                return averaged, *(rectified.view_as(rectified) for _ in range(READERS))

            yield Case(f"{channels}@{size}x{size}", name, [x], ours, theirs)


if __name__ == "__main__":
    main("rectify_average", __doc__, cases)
