"""Every operator on maps takes a gradient as it is laid out: cuDNN hands back contiguous ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snsoftmax import mixture
from snsoftmax.convolve import convolve
from tests.snsoftmax.test_depthwise import LAYOUTS, close


def mixed(x: Tensor) -> Tensor:
    return mixture([x, x * x], [x], torch.tensor([0.2, 0.3, 0.5], dtype=x.dtype))


def mixed_slowly(x: Tensor) -> Tensor:
    norms = [F.batch_norm(y, None, None, training=True) for y in (x, x * x)]
    return 0.2 * norms[0] + 0.3 * norms[1] + 0.5 * x


WEIGHT = torch.linspace(-1, 1, 16 * 16 * 9, dtype=torch.float64).view(16, 16, 3, 3)

PAIRS: dict[str, Sequence[Callable[[Tensor], Tensor]]] = {
    "mixture": (mixed, mixed_slowly),
    "convolve": (
        lambda x: convolve(x, [WEIGHT])[0],
        lambda x: F.conv2d(x, WEIGHT, padding=1),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_map", LAYOUTS)
@pytest.mark.parametrize("name", PAIRS)
def test_any_layout(name: str, of_map: str, layout: str) -> None:
    torch.manual_seed(0)
    x = LAYOUTS[of_map](torch.randn(3, 16, 4, 6, dtype=torch.float64)).requires_grad_()
    grad = LAYOUTS[layout](torch.randn(3, 16, 4, 6, dtype=torch.float64))
    ours, theirs = (function(x) for function in PAIRS[name])
    close(ours, theirs, torch.float64)
    found, wanted = (torch.autograd.grad(y, x, grad)[0] for y in (ours, theirs))
    close(found, wanted, torch.float64)
