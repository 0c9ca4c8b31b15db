"""Time the convolutions that leave a node against PyTorch's.

    python -m bench.node_convolve [--device cpu|cuda] [--runs N] [--json PATH]

At the shapes of a search of NAS-Bench-201 (C=16): the 3x3 and the 1x1 convolutions of three edges
or of one that leave a node, with the moments that batch norm needs; forward and backward, and each
of the three alone: the maps, the gradients of the kernels, that of the node's map (for PyTorch's
gradients the map is rectified before). With "sharp" one edge of one operation is live, as where β
has become so; PyTorch computes all of them. On a CPU both are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.maps import Case, Outputs, draw, main
from snsoftmax import reference
from snsoftmax.node_convolve import node_convolve

ops = torch.ops.snsoftmax
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
                case = f"{edges} edges, {channels}@{size}x{size}, batch {batch}" + ", sharp" * sharp
                yield from directions(case, name, (x, three, one), live)


def directions(
    case: str, dtype: str, inputs: tuple[Tensor, Tensor, Tensor], live: Tensor | None
) -> Iterator[Case]:
    """Forward and backward together, then each alone."""

    def ours() -> Sequence[Tensor]:
        return node_convolve(*inputs, live)[:2]

    def theirs() -> Sequence[Tensor]:
        return reference.node_convolve(*inputs)[:2]

    yield Case(case, dtype, inputs, ours, theirs)
    x, three, one = (t.detach() for t in inputs)
    grads = [torch.randn_like(y) for y in theirs()]
    rectified = torch.relu(x)

    def backward(*wanted: bool) -> list[tuple[Tensor, ...]]:
        return [
            torch.ops.aten.convolution_backward(
                grad, rectified, w, None, [1, 1], [w.shape[-1] // 2] * 2, [1, 1], False, [0, 0], 1,
                [*wanted, False],
            )
            for grad, w in zip(grads, (three, one), strict=True)
        ]  # fmt: skip

    def theirs_of_map() -> Sequence[Tensor]:
        (of_three, *_), (of_one, *_) = backward(True, False)
        return [torch.ops.aten.threshold_backward(of_three + of_one, x, 0)]

    parts: dict[str, tuple[Outputs, Outputs]] = {
        "maps": (
            lambda: node_convolve(x, three, one, live),
            lambda: reference.node_convolve(x, three, one),
        ),
        "kernels' gradients": (
            lambda: ops.node_convolve_backward_weights(*grads, x, live),
            lambda: [weight for _, weight, _ in backward(False, True)],
        ),
        "map's gradient": (
            lambda: [ops.node_convolve_backward_map(*grads, x, three, one, live)],
            theirs_of_map,
        ),
    }
    for part, (mine, other) in parts.items():
        yield Case(f"{case}: {part}", dtype, [], mine, other)


if __name__ == "__main__":
    main("node_convolve", __doc__, cases)
