"""Curvature of a loss in a few parameters, through double backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def hessian_vector_product(
    loss: Tensor, parameters: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """v → ∇²loss·v for flat vectors, by differentiating the gradient's product with v.

    Args:
        loss: 0-d, with a graph.
        parameters: what is differentiated by; their elements in order make the vector, [n].
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradients])

    def product(vector: Tensor) -> Tensor:
        rows = torch.autograd.grad(
            flat @ vector, parameters, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        return torch.cat([row.flatten() for row in rows])

    return product


def largest_eigenvalue(
    evaluate: Callable[[], Tensor], parameters: Sequence[Tensor], *, iterations: int = 32
) -> float:
    """Largest (most positive) eigenvalue of the Hessian of `evaluate()` in `parameters`.

    Lanczos with full reorthogonalisation from a fixed start. Exact up to rounding where the
    parameters have no more than `iterations` elements, or the Krylov space ends before.

    Args:
        evaluate: gives the loss, 0-d, with a graph to `parameters`.
        parameters: leaves that require a gradient.
        iterations: largest number of Hessian-vector products.
    """
    product = hessian_vector_product(evaluate(), parameters)
    size = sum(p.numel() for p in parameters)
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = [start / start.norm()]
    like = parameters[0]
    rows = []
    for _ in range(min(iterations, size)):
        image = product(basis[-1].to(like)).detach().cpu().double()
        rows.append(torch.stack([image @ vector for vector in basis]))
        for _ in range(2):  # once is not enough in floating point
            for vector in basis:
                image = image - (image @ vector) * vector
        scale = image.norm()
        if scale <= 1e-10 * rows[-1].norm():
            break
        basis.append(image / scale)
    count = len(rows)
    projected = torch.zeros(count, count, dtype=torch.float64)
    for i, row in enumerate(rows):
        projected[i, : i + 1] = row
        projected[: i + 1, i] = row
    return float(torch.linalg.eigvalsh(projected)[-1])
