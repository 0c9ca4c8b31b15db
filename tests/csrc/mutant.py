"""A way to break a CUDA source; `tests.csrc.mutants` tries them."""

from __future__ import annotations

from dataclasses import dataclass

SN_SOFTMAX = "sn_softmax"
SYNC = "__syncthreads();"


@dataclass(frozen=True)
class Mutant:
    """`old`, once in the operator's CUDA sources, replaced by `new`; noticed by `kind`.

    ``part``: of the few cases, which its test program runs; all by default.
    """

    name: str
    kind: str
    old: str
    new: str
    operator: str = SN_SOFTMAX
    part: str = ""
