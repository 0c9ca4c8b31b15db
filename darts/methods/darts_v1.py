"""DARTS, first order: softmax mixture, α moved by the validation loss at the current ω.

Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019 (Algorithm 1 with ξ = 0).
Settings: NAS-Bench-201's (AutoDL-Projects, exps/NATS-algos/search-cell.py, darts-v1) on nb201, the
authors' (quark0/darts, train_search.py) on the DARTS spaces; both are the recipe "autodl". The
control "DARTS under the EDD recipe" is this method with `--recipe edd`.
"""

from darts.methods.base import Method, register


@register("darts-v1", "DARTS, first order")
class DARTSV1(Method):
    """Every seam as in the base class."""

    steady = True
