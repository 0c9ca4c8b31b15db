"""The convolution that recomputes its normalisation, against the composition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from darts.supernet.normalized_depthwise import normalized_depthwise
from tests.snsoftmax.test_depthwise import LAYOUTS, close


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_map", LAYOUTS)
def test_any_layout(layout: str, of_map: str) -> None:
    """A convolution hands on maps and gradients as its library likes to lay them."""
    torch.manual_seed(0)
    y = LAYOUTS[of_map](torch.randn(3, 5, 4, 6, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(5, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    grad = LAYOUTS[layout](torch.randn(3, 5, 4, 6, dtype=torch.float64))
    ours = normalized_depthwise(y, weight, ([], []), True, 0.1, 1e-5)
    normalized = F.batch_norm(y, None, None, training=True)
    theirs = F.conv2d(normalized.relu(), weight, None, 1, 1, 1, 5)
    close(ours, theirs, torch.float64)
    found = torch.autograd.grad(ours, (y, weight), grad)
    for got, want in zip(found, torch.autograd.grad(theirs, (y, weight), grad), strict=True):
        close(got, want, torch.float64)
