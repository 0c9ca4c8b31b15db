"""Folders that Hugging Face's `datasets` saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from darts.data import load
from darts.errors import UserError

datasets: Any = pytest.importorskip("datasets")


def rows(count: int, label: Any, kind: Any) -> Any:
    draw = np.random.default_rng(0)
    pictures = [
        Image.fromarray(draw.integers(0, 256, (9, 7, 3), dtype=np.uint8)) for _ in range(count)
    ]
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    return datasets.Dataset.from_dict(
        {"image": pictures, "label": [label(i) for i in range(count)]}, features=features
    )


def test_a_dictionary_with_parts(tmp_path: Path) -> None:
    kind = datasets.ClassLabel(names=["cat", "dog"])
    parts = {"train": rows(6, lambda i: i % 2, kind), "validation": rows(3, lambda i: 1, kind)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "pets"))
    found = load(tmp_path / "pets", side=8)
    assert (found.name, found.shape, found.classes) == ("pets", (3, 8, 8), 2)
    assert found.train_labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.test_labels.tolist() == [1, 1, 1]
    expected = parts["train"][0]["image"].resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(found.train_images[0].permute(1, 2, 0).numpy(), np.array(expected))


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    kind = datasets.Sequence(datasets.ClassLabel(names=["red", "round", "large"]))
    rows(10, lambda i: [0, 2] if i % 2 else [], kind).save_to_disk(str(tmp_path / "things"))
    found = load(tmp_path / "things", side=8)
    assert (len(found.train_labels), len(found.test_labels)) == (8, 2)
    assert found.train_labels[:2].tolist() == [[False] * 3, [True, False, True]]
    rows(10, lambda i: i / 2, datasets.Value("float32")).save_to_disk(str(tmp_path / "ages"))
    assert load(tmp_path / "ages").train_labels.dtype == torch.float32


def test_one_sentence_where_it_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rows(5, lambda i: 0, datasets.Value("int64"))
    datasets.DatasetDict({"train": one}).save_to_disk(str(tmp_path / "alone"))
    with pytest.raises(UserError, match=r"a part train and one of test, .*, not train"):
        load(tmp_path / "alone")
    one.rename_column("label", "age").add_column("size", [1] * 5).save_to_disk(
        str(tmp_path / "unclear")
    )
    with pytest.raises(UserError, match="a column label or labels; it has image, age, size"):
        load(tmp_path / "unclear")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        load(tmp_path / "alone")
