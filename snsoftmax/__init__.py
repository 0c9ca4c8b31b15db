"""Sparse-noisy softmax: softmax(A/t) with a gradient that survives saturation, in fused kernels."""

import torch  # noqa: F401  the extension's symbols come from libtorch

try:
    from snsoftmax import _C
except ImportError as error:
    raise ImportError(
        "snsoftmax's compiled extension is missing or was built for another PyTorch; build it with "
        '`pip install --no-build-isolation -e ".[dev]"` in the source folder '
        f"({error})."
    ) from error

from snsoftmax import vmap as _vmap  # noqa: F401  registers the batching rules
from snsoftmax.functional import build_info, sn_softmax
from snsoftmax.mixture import mixture
from snsoftmax.modules import SNSoftmax

__all__ = ["SNSoftmax", "build_info", "mixture", "sn_softmax"]
__version__: str = _C.build_info()["version"]
