"""The methods' base class."""

import ast
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import darts.methods
from darts.methods import register
from darts.methods.base import Method, entropy
from tests.darts.methods.method_helpers import LinearLoss, make, ranked


def test_darts_mixes_with_softmax_and_moves_alpha_by_adam() -> None:
    method = make("darts-v1")
    c = ranked()
    a = method.logits["cell"].detach().clone().requires_grad_()
    expected = torch.softmax(a, -1)
    torch.testing.assert_close(method.weights()["cell"], expected)
    reference = torch.optim.Adam([a], lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    a.grad = torch.autograd.grad((expected * c).sum(), a)[0]
    reference.step()
    step = SimpleNamespace(net=torch.nn.Linear(1, 1), arch_loss=LinearLoss(c))
    method.arch_step(step)
    torch.testing.assert_close(method.logits["cell"], a)


def test_entropy_is_that_of_normalised_rows() -> None:
    assert entropy(torch.tensor([[2.0, 2.0]])) == pytest.approx(math.log(2))
    assert entropy(torch.tensor([[0.0, 3.0]])) == 0
    assert entropy(torch.tensor([[0.0, 0.0]])) == 0


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'edd' is taken by"):
        register("edd", "another")(type("Other", (Method,), {}))


SHARED = {"__init__", "base", "controller", "schedules", "hessian"}
"""Files of darts/methods that are no method's own."""
LONGER = {"perturbation": 35, "robust_darts": 26, "sdarts": 27, "sgas": 28}
"""Files that need more than 25 statements, and how many."""


def statements(node: ast.AST) -> int:
    return sum(
        isinstance(child, ast.stmt)
        and not isinstance(child, (ast.FunctionDef, ast.ClassDef))
        and not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
        for child in ast.walk(node)
    )


def test_methods_are_short() -> None:
    """A file has at most 25 statements in all its functions, but for published values."""
    counts = {}
    for path in Path(darts.methods.__path__[0]).glob("*.py"):
        functions = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name != "published"
        ]
        counts[path.stem] = sum(map(statements, functions))
    own = {name: count for name, count in counts.items() if name not in SHARED}
    assert len(own) > 20
    assert {name: count for name, count in own.items() if count > 25} == LONGER
