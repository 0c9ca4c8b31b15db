"""The operator as a function."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from snsoftmax import _C

DEFAULT_SCALE = 100.0
"""s of Eq. 7 where the caller names no smooth temperature: the paper's s = 100."""


class Unnamed(Enum):
    """What stands for `DEFAULT_SCALE`, so that naming it differs from leaving it out."""

    SCALE = DEFAULT_SCALE

    def __repr__(self) -> str:
        return repr(self.value)


@overload
def sn_softmax(
    logits: Tensor,
    temperature: float | Tensor,
    *,
    scale: float | Unnamed | None = ...,
    smooth_temperature: float | Tensor | None = ...,
    dim: int = ...,
    return_entropy: Literal[False] = ...,
) -> Tensor: ...
@overload
def sn_softmax(
    logits: Tensor,
    temperature: float | Tensor,
    *,
    scale: float | Unnamed | None = ...,
    smooth_temperature: float | Tensor | None = ...,
    dim: int = ...,
    return_entropy: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@overload
def sn_softmax(
    logits: Tensor,
    temperature: float | Tensor,
    *,
    scale: float | Unnamed | None = ...,
    smooth_temperature: float | Tensor | None = ...,
    dim: int = ...,
    return_entropy: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def sn_softmax(
    logits: Tensor,
    temperature: float | Tensor,
    *,
    scale: float | Unnamed | None = Unnamed.SCALE,
    smooth_temperature: float | Tensor | None = None,
    dim: int = -1,
    return_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Sparse-noisy softmax (Algorithm 1): softmax(A/t) with the gradient of Eq. 8.

    The value is ordinary softmax(A/t), however small t is: saturated entries are exact zeros. The
    gradient is (J_t/t + J_st/(st))·g: the Jacobian of a smoother softmax at st is added, so that
    it does not vanish with them (Eq. 7). Derivatives of any order, forward mode, vmap and
    torch.compile work; compiled autograd does on functions under torch.compile.

    Args:
        logits: A, of any shape and strides, 2³¹ elements and more included (on CUDA a single row
            has at most 2³¹ − 4096); float16, bfloat16, float32 or float64. Half types are
            computed in float32. Under autocast the result is float32.
        temperature: t > 0: a number, or a tensor on the logits' device that the kernel reads
            there (no synchronisation; a captured CUDA graph sees a new value). A tensor is 0-d,
            or has one value a row in a shape that broadcasts to the logits with size 1 in
            `dim`. It is not differentiated.
        scale: s > 1, so that st = s·t; None turns the smooth term off: ordinary softmax(A/t).
        smooth_temperature: st itself, like `temperature`; replaces the default `scale`. 1.0 is the
            paper's st ≡ 1.
        dim: The dimension that sums to one.
        return_entropy: Also return H = −Σ β log β of every row (Eq. 13) from the same pass.

    Returns:
        β with the shape and dtype of `logits`; with `return_entropy` the pair (β, H), H in nats, in
        the logits' shape without `dim`, float32 (float64 for float64 logits). H is
        differentiated exactly: its gradient has no smooth term.

    A row with a NaN or a +inf, or of nothing but −inf, becomes NaN, as in torch.softmax; a single
    −inf is an exact zero. An empty `dim` gives an empty result. A temperature tensor on a GPU is
    not read on the host: where it is not positive, the rows are NaN.

    Raises:
        TypeError: `logits` is not a floating-point tensor, or another argument has the wrong type.
        ValueError: t or st is not a positive finite number, `scale` is not above 1, both `scale`
            and `smooth_temperature` are given, or a temperature's shape does not broadcast.
        IndexError: `dim` is out of range.
    """
    if scale is Unnamed.SCALE:
        scale = DEFAULT_SCALE if smooth_temperature is None else None
    if torch.compiler.is_compiling() or has_torch_function_unary(logits):
        return _through_dispatcher(
            logits, temperature, scale, smooth_temperature, dim, return_entropy
        )
    result: Tensor | tuple[Tensor, Tensor] = _C.sn_softmax(
        logits, temperature, scale, smooth_temperature, dim, return_entropy
    )
    return result


def _through_dispatcher(
    logits: Tensor,
    temperature: float | Tensor,
    scale: float | None,
    smooth_temperature: float | Tensor | None,
    dim: int,
    return_entropy: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same call on the registered operator, which tracing and tensor subclasses see."""

    def as_tensor(value: float | Tensor) -> Tensor:
        # A product, since torch.compile keeps a number dynamic in one but not in torch.full.
        # On the CPU whatever the default device is: there a 0-d tensor stands for a number.
        one = torch.ones((), dtype=torch.float64, device="cpu")
        return value if isinstance(value, Tensor) else one * value

    if not isinstance(return_entropy, bool):
        raise TypeError(
            "sn_softmax: return_entropy must be True or False, got "
            f"{type(return_entropy).__name__}."
        )
    ops = torch.ops.snsoftmax
    op = ops.sn_softmax_entropy if return_entropy else ops.sn_softmax
    smooth = None if smooth_temperature is None else as_tensor(smooth_temperature)
    result: Tensor | tuple[Tensor, Tensor] = op(logits, as_tensor(temperature), smooth, scale, dim)
    return result


def build_info() -> dict[str, Any]:
    """What this build is: versions, compiler, CUDA release and architectures, CPU capability."""
    return _C.build_info()
