"""Time the convolutions that leave a node against PyTorch's.

    python -m bench.node_convolve [--device cpu|cuda] [--runs N] [--json PATH]

At the shapes of a search of NAS-Bench-201 (C=16): the 3x3 and the 1x1 convolutions of three edges
or of one that leave a node, with the moments that batch norm needs. With "sharp" one edge of one
operation is live, as where β has become so; PyTorch computes all of them. On a CPU both are
PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.maps import Case, draw, main
from snsoftmax import reference
from snsoftmax.node_convolve import node_convolve

SHAPES = [(16, 32), (32, 16), (64, 8)]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def cases(device: torch.device) -> Iterator[Case]:
    """Every stage in every dtype; fewer edges, a larger batch and a sharp β in bfloat16 only."""
    for name, dtype in DTYPES.items():
        for channels, size in SHAPES:
            for edges, batch, sharp in (
                (3, 64, False),
                (3, 256, False),
                (1, 64, False),
                (3, 64, True),
            ):
                if dtype == torch.float32 and (edges, batch, sharp) != (3, 64, False):
                    continue
                x = draw(batch, channels, size, size, dtype=dtype, device=device)
                rows = edges * channels
                three = draw(rows, channels, 3, 3, dtype=dtype, device=device)
                one = draw(rows, channels, 1, 1, dtype=dtype, device=device)
                live = torch.arange(2 * edges, device=device) == 0 if sharp else None
                arguments = x, three, one

                def ours(
                    a: tuple[Tensor, Tensor, Tensor] = arguments, live: Tensor | None = live
                ) -> Sequence[Tensor]:
                    return node_convolve(*a, live)[:2]

                def theirs(a: tuple[Tensor, Tensor, Tensor] = arguments) -> Sequence[Tensor]:
                    return reference.node_convolve(*a)[:2]

                case = f"{edges} edges, {channels}@{size}x{size}, batch {batch}"
                yield Case(case + ", sharp" * sharp, name, list(arguments), ours, theirs)


if __name__ == "__main__":
    main("node_convolve", __doc__, cases)
