"""Sparse-noisy softmax: softmax(A/t) with a gradient that survives saturation, in fused kernels."""

from snsoftmax import _build  # noqa: F401  first: says what is wrong with the extension
from snsoftmax import vmap as _vmap  # noqa: F401  registers the batching rules
from snsoftmax.functional import build_info, sn_softmax
from snsoftmax.mixture import mixture
from snsoftmax.modules import SNSoftmax

__all__ = ["SNSoftmax", "build_info", "mixture", "sn_softmax"]
__version__: str = build_info()["version"]
