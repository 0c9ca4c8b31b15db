"""ONNX: what stands for the operator in an exported model, which does not learn.

>>> torch.onnx.export(model, args, dynamo=True, custom_translation_table=translations())
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from snsoftmax import _C  # noqa: F401  registers the operators


def translations() -> dict[Any, Callable[..., Any]]:
    """For `torch.onnx.export`'s ``custom_translation_table``: softmax(A/t), in ONNX's operators.

    Raises:
        ImportError: onnxscript is not installed.
    """
    op: Any = importlib.import_module("onnxscript").opset18  # it is needed here alone

    def sn_softmax(
        logits: Any, temperature: Any, smooth_temperature: Any, scale: float | None, dim: int
    ) -> Any:
        return op.Softmax(op.Div(logits, op.CastLike(temperature, logits)), axis=dim)

    def sn_softmax_entropy(
        logits: Any, temperature: Any, smooth_temperature: Any, scale: float | None, dim: int
    ) -> tuple[Any, Any]:
        beta = sn_softmax(logits, temperature, smooth_temperature, scale, dim)
        zero = op.CastLike(op.Constant(value_float=0.0), beta)
        terms = op.Where(op.Greater(beta, zero), op.Mul(beta, op.Log(beta)), zero)
        total = op.ReduceSum(terms, op.Constant(value_ints=[dim]), keepdims=0)
        return beta, op.Neg(total)

    ops = torch.ops.snsoftmax
    return {
        ops.sn_softmax.default: sn_softmax,
        ops.sn_softmax_entropy.default: sn_softmax_entropy,
    }
