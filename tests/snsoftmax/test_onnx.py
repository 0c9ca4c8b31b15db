"""Exported models give softmax(A/t) in a runtime that knows nothing of us."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snsoftmax import SNSoftmax, reference, sn_softmax
from snsoftmax.onnx import translations

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


class Head(nn.Module):
    def __init__(self, temperature: Any, dim: int, entropy: bool) -> None:
        super().__init__()
        self.temperature, self.dim, self.entropy = temperature, dim, entropy

    def forward(self, x: Tensor) -> Any:
        return sn_softmax(
            x, self.temperature, scale=50.0, dim=self.dim, return_entropy=self.entropy
        )


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    program: Any = torch.onnx.export(
        model.eval(), (x,), dynamo=True, verbose=False, custom_translation_table=translations()
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    return [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]


@pytest.mark.parametrize(
    ("temperature", "dim"),
    [
        (0.1, -1),
        (torch.tensor(0.2), 1),
        (torch.tensor([[0.1], [0.5], [2.0]]), -1),
        (torch.tensor([0.1, 0.2, 0.3, 0.4, 5.0]), 0),
    ],
)
@pytest.mark.parametrize("entropy", [False, True])
def test_the_value_is_the_operators(temperature: Any, dim: int, entropy: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5)
    beta, *more = run(Head(temperature, dim, entropy), x)
    torch.testing.assert_close(beta, reference.sn_softmax(x, temperature, None, dim))
    if entropy:
        torch.testing.assert_close(more[0], reference.entropy(beta, dim))


def test_saturated_rows_have_no_entropy() -> None:
    x = torch.tensor([[0.0, 1.0, 3.0]])
    beta, entropy = run(Head(1e-3, -1, True), x)
    assert torch.equal(beta, torch.tensor([[0.0, 0.0, 1.0]]))
    assert torch.equal(entropy, torch.zeros(1))


def test_the_module_is_exported_too() -> None:
    model = nn.Sequential(nn.Linear(4, 5), SNSoftmax(0.3)).eval()
    x = torch.randn(2, 4)
    (beta,) = run(model, x)
    torch.testing.assert_close(beta, model(x).detach())
