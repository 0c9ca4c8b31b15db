from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def sn_softmax(
    logits: Tensor,
    temperature: float | Tensor,
    scale: float | None,
    smooth_temperature: float | Tensor | None,
    dim: int,
    return_entropy: bool,
    /,
) -> Any: ...
