from __future__ import annotations

import gzip
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from darts.data import (
    Batches,
    ImageSet,
    SearchBatches,
    evaluation_batches,
    from_datasets,
    load,
    search_split,
    sources,
)
from darts.errors import UserError


def coded_images(count: int = 40, side: int = 8, *, flip: bool = True) -> ImageSet:
    """Images whose pixels say which image, row and column they come from (all non-zero)."""
    number = torch.arange(1, count + 1)[:, None, None].expand(count, side, side)
    row = torch.arange(1, side + 1)[:, None].expand(count, side, side)
    column = torch.arange(1, side + 1).expand(count, side, side)
    pixels = torch.stack([number, row, column], 1).to(torch.uint8)
    labels = torch.arange(count) % 4
    return ImageSet("coded", pixels, labels, pixels[:6], labels[:6], flip=flip)


def to_bytes(images: ImageSet, normalised: Tensor) -> Tensor:
    mean, deviation = images.normalization()
    pixels = normalised * deviation[:, None, None] + mean[:, None, None]
    return (pixels * 255).round().to(torch.int64)


def write_npz(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "train_images": np.arange(4 * 3 * 8 * 8, dtype=np.uint8).reshape(4, 3, 8, 8),
        "train_labels": np.array([0, 1, 2, 1], dtype=np.uint8),
        "test_images": np.zeros((2, 3, 8, 8), np.uint8),
        "test_labels": np.array([0, 2]),
    }
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_digits_are_real_and_split_without_overlap() -> None:
    digits = load("digits")
    assert digits.train_images.shape == (1438, 3, 16, 16)
    assert digits.test_images.shape == (359, 3, 16, 16)
    assert digits.classes == 10
    assert not digits.flip
    assert digits.train_images.amax() == 255
    train = {image.numpy().tobytes() for image in digits.train_images}
    assert not any(image.numpy().tobytes() in train for image in digits.test_images)


def test_npz_gives_the_stored_arrays(tmp_path: Path) -> None:
    images = load(write_npz(tmp_path / "small.npz"))
    assert images.name == "small"
    assert images.classes == 3
    assert images.train_images[1, 2, 3, 4] == (1 * 192 + 2 * 64 + 3 * 8 + 4) % 256
    assert images.train_labels.dtype == torch.int64


def test_shared_cifar_subset(shared: Path) -> None:
    images = load(shared / "cifar10_subset.npz")
    assert images.train_images.shape == (5170, 3, 32, 32)
    assert images.classes == 10
    mean, deviation = images.normalization()
    # The full training set's published values are 0.4914 0.4822 0.4465 and 0.2470 0.2435 0.2616.
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-3, rtol=0)
    torch.testing.assert_close(deviation, torch.tensor([0.247, 0.2435, 0.2616]), atol=3e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_labels": None}, "lacks train_labels"),
        ({"train_images": np.zeros((4, 3, 8, 8), np.float32)}, "train_images must be uint8"),
        ({"test_images": np.zeros((2, 8, 8), np.uint8)}, "test_images must be uint8"),
        (
            {"test_images": np.zeros((2, 3, 8, 9), np.uint8)},
            r"\[3, 8, 8\] but test images \[3, 8, 9\]",
        ),
        (
            {"test_images": np.zeros((2, 2, 8, 8), np.uint8)},
            "channels, height and width must match",
        ),
        ({"train_labels": np.array([0, 1, 2])}, r"train_labels must be int64 \[4\]"),
        ({"train_labels": np.array([0.0, 1, 2, 1])}, "labels are float32 .* test labels int64"),
        ({"train_labels": np.array(list("abca"))}, "train_labels must be integers"),
        ({"train_labels": np.array([[0, 2]] * 4)}, "train_labels: several labels .* 0 or 1"),
        ({"train_labels": np.ones((4, 0), bool)}, r"train_labels must be int64 \[4\]"),
        ({"train_labels": np.array([0, np.nan, 1, 1])}, "train_labels must be finite"),
        ({"test_labels": np.array([0, -1])}, "the smallest is -1"),
        ({"test_images": np.zeros((0, 3, 8, 8), np.uint8)}, "non-empty"),
    ],
)
def test_malformed_npz_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load(write_npz(tmp_path / "bad.npz", **changes))
    assert "\n" not in str(caught.value)


def test_absent_and_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.npz")
    whole = write_npz(tmp_path / "whole.npz").read_bytes()
    for name, content in {"cut.npz": whole[:-40], "text.npz": b"hello", "empty.npz": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read as an \.npz"):
            load(tmp_path / name)
    with pytest.raises(UserError, match=r"data='mnist' is unknown; use one of digits, cifar10"):
        load("mnist")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_torchvision_set_is_never_fetched_unasked(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="allow the download"):
        load(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(root: Path, train: bool, download: bool) -> None:
        (root / "cifar-10-batches-py").mkdir()
        raise RuntimeError("the line is dead")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", break_off)
    with pytest.raises(UserError, match="could not be downloaded"):
        load("cifar10", root=tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


def test_damaged_torchvision_set_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match=r"CIFAR10 in .* is damaged"):
        load("cifar10", root=tmp_path)


@pytest.fixture
def imagenet16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files in the official layout, with their own checksums."""
    folder = tmp_path / "ImageNet16"
    folder.mkdir()
    checksums = {}
    for number, name in enumerate(sources.IMAGENET16_MD5):
        labels = [1 + number, 120, 121, 1000]
        pixels = np.full((4, 768), number, np.uint8)
        pixels[:, 256] = 200  # the first pixel of the second channel
        content = pickle.dumps({"data": pixels, "labels": labels}, protocol=2)
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(sources, "IMAGENET16_MD5", checksums)
    return tmp_path


def test_imagenet16_keeps_the_first_120_classes(imagenet16: Path) -> None:
    for root in (imagenet16, imagenet16 / "ImageNet16"):
        images = load("imagenet16-120", root=root)
        assert images.train_images.shape == (20, 3, 16, 16)
        assert images.test_images.shape == (2, 3, 16, 16)
        assert images.train_labels[:4].tolist() == [0, 119, 1, 119]
        assert images.classes == 120
        assert images.train_images[2, :, 0, 0].tolist() == [1, 200, 1]


def test_imagenet16_checks_its_files(imagenet16: Path) -> None:
    file = imagenet16 / "ImageNet16" / "train_data_batch_3"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"train_data_batch_3 is damaged or another file"):
        load("imagenet16-120", root=imagenet16)
    file.unlink()
    with pytest.raises(UserError, match=r"train_data_batch_3 cannot be read .*must hold the"):
        load("imagenet16-120", root=imagenet16)


def test_torch_datasets_become_bytes() -> None:
    grey = [(torch.full((5, 5), value), i) for i, value in enumerate((0.0, 0.2, 1.0))]
    colour = [(np.full((5, 5, 3), 7, np.uint8), 0)]
    images = from_datasets(grey, grey)  # type: ignore[arg-type]
    assert images.train_images[:, 2, 0, 0].tolist() == [0, 51, 255]
    assert from_datasets(colour, colour).train_images.shape == (1, 3, 5, 5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must lie in"):
        from_datasets([(torch.full((3, 5, 5), 1.5), 0)], grey)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="item 1: shape"):
        from_datasets([*grey[:1], (torch.zeros(6, 6), 0)], grey)  # type: ignore[arg-type,list-item]


def test_normalization_is_exact() -> None:
    images = load("digits")
    pixels = images.train_images.double() / 255
    mean, deviation = images.normalization()
    torch.testing.assert_close(mean, pixels.mean((0, 2, 3)).float(), atol=1e-7, rtol=0)
    expected = pixels.std((0, 2, 3), correction=0).float()
    torch.testing.assert_close(deviation, expected, atol=1e-7, rtol=0)


def test_split_halves_cover_everything_once() -> None:
    images = coded_images(41)
    weights, arch = search_split(images)
    assert (len(weights), len(arch)) == (20, 21)
    assert sorted([*weights.tolist(), *arch.tolist()]) == list(range(41))
    assert weights.tolist() != list(range(20))


def test_split_file_is_read_in_both_official_layouts(tmp_path: Path) -> None:
    plain, tagged = tmp_path / "plain.json", tmp_path / "tagged.json.gz"
    plain.write_text(json.dumps({"train": [3, 1], "valid": [0]}))
    with gzip.open(tagged, "wt") as file:
        json.dump({"train": ["int", ["3", "1"]], "valid": ["int", ["0"]]}, file)
    for path in (plain, tagged):
        weights, arch = search_split(coded_images(), path)
        assert (weights.tolist(), arch.tolist()) == ([3, 1], [0])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "must be JSON"),
        ("[]", "must be JSON"),
        ('{"train": [1]}', "KeyError"),
        ('{"train": [1, "a"], "valid": [0]}', "must be JSON"),
        ('{"train": [1], "valid": [1]}', "share no index"),
        ('{"train": [], "valid": [1]}', "non-empty"),
        ('{"train": [1], "valid": [40]}', "names image 40, but coded has 40"),
    ],
)
def test_bad_split_file_is_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        search_split(coded_images(), path)


def test_official_split_selects_the_official_halves(shared: Path) -> None:
    count = 50_000
    pixels = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    images = ImageSet("full", pixels, labels, pixels[:1], labels[:1])
    weights, arch = search_split(images, shared / "nb201_cifar10_split.json.gz")
    assert len(weights) == len(arch) == 25_000
    assert weights[:4].tolist() == [0, 5, 7, 11]


@pytest.mark.parametrize("flip", [False, True])
def test_batch_is_a_shifted_mirrored_normalised_image(flip: bool) -> None:
    side = 8
    images = coded_images(flip=flip)
    mirrored = 0
    shifts = set()
    for batch in Batches(images, batch_size=10, seed=3).epoch():
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for pixels, label in zip(to_bytes(images, batch.images), batch.labels, strict=True):
            number = int(pixels[0].max())
            assert label == (number - 1) % 4
            inside = pixels[0] == number
            assert torch.equal(pixels[0] == 0, ~inside)
            rows, columns = inside.nonzero(as_tuple=True)
            down = pixels[1][inside] - 1 - rows
            assert len(down.unique()) == 1  # type: ignore[no-untyped-call]
            assert abs(int(down[0])) <= 1
            straight, turned = pixels[2][inside] - 1 - columns, pixels[2][inside] - 1 + columns
            is_turned = len(straight.unique()) > 1  # type: ignore[no-untyped-call]
            mirrored += is_turned
            across = (turned - side + 1) if is_turned else straight
            assert len(across.unique()) == 1  # type: ignore[no-untyped-call]
            assert abs(int(across[0])) <= 1
            shifts.add((int(down[0]), int(across[0])))
    assert len(shifts) == 9
    assert (10 <= mirrored <= 30) if flip else mirrored == 0


def test_unaugmented_batch_holds_the_images_unchanged() -> None:
    images = coded_images()
    for batch in Batches(images, batch_size=8, seed=0, augment=False).epoch():
        pixels = to_bytes(images, batch.images)
        assert torch.equal(pixels, images.train_images[pixels[:, 0, 0, 0] - 1].long())


def test_cutout_zeroes_one_square_cut_off_at_the_border() -> None:
    images = coded_images(flip=False)
    plain = next(Batches(images, batch_size=40, seed=5).epoch()).images
    cut = next(Batches(images, batch_size=40, seed=5, cutout=4).epoch()).images
    areas = []
    for before, after in zip(plain, cut, strict=True):
        hole = (after == 0).all(0)
        assert torch.equal(before[:, ~hole], after[:, ~hole])
        rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert max(len(rows), len(columns)) <= 4
        areas.append(int(hole.sum()))
    assert max(areas) == 16
    assert min(areas) < 16


def test_epoch_visits_every_image_once_in_a_new_order() -> None:
    images = coded_images()
    batches = Batches(images, batch_size=8, seed=0)
    orders = []
    for _ in range(2):
        numbers = [to_bytes(images, batch.images)[:, 0].amax((1, 2)) for batch in batches.epoch()]
        orders.append(torch.cat(numbers).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1, 41))
    assert orders[0] != orders[1]
    assert batches.epoch_index == 2


def test_arch_half_keeps_pace_when_it_is_smaller(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": list(range(32)), "valid": list(range(32, 40))}))
    images = coded_images()
    pairs = list(SearchBatches(images, batch_size=8, seed=0, split=path).epoch())
    assert len(pairs) == 4
    for weights, arch in pairs:
        assert to_bytes(images, weights.images)[:, 0].amax() <= 32
        numbers = to_bytes(images, arch.images)[:, 0].amax((1, 2))
        assert sorted(numbers.tolist()) == list(range(33, 41))


def test_seeds_decide_everything() -> None:
    images = coded_images()

    def first(seed: int) -> Tensor:
        return next(SearchBatches(images, batch_size=8, seed=seed).epoch())[0].images

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 15), st.integers(0, 5))
def test_resumes_at_any_batch(stop: int, seed: int) -> None:
    images = coded_images()

    def flow(batches: SearchBatches, epochs: int) -> list[Tensor]:
        taken = []
        while batches.epoch_index < epochs:
            taken += [torch.cat([a.images, b.images]) for a, b in batches.epoch()]
        return taken

    whole = flow(SearchBatches(images, batch_size=4, seed=seed), 3)
    assert len(whole) == 15
    batches = SearchBatches(images, batch_size=4, seed=seed)
    state = batches.state_dict()
    taken = 0
    while taken < stop:
        for _ in batches.epoch():
            taken += 1
            state = batches.state_dict()
            if taken == stop:
                break
    resumed = SearchBatches(images, batch_size=4, seed=seed + 1)
    resumed.load_state_dict(state)
    rest = flow(resumed, 3)
    assert len(rest) == 15 - stop
    assert all(torch.equal(a, b) for a, b in zip(whole[stop:], rest, strict=True))


def test_processes_share_each_batch() -> None:
    images = coded_images()
    together = list(Batches(images, batch_size=8, seed=4).epoch())
    shares = [
        list(Batches(images, batch_size=8, seed=4, rank=rank, world=2).epoch()) for rank in (0, 1)
    ]
    for whole, even, odd in zip(together, *shares, strict=True):
        assert torch.equal(whole.images[0::2], even.images)
        assert torch.equal(whole.labels[1::2], odd.labels)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch_size": 0}, "batch_size=0 must be between 1 and the 40"),
        ({"batch_size": 41}, "batch_size=41"),
        ({"batch_size": 9, "world": 2}, "multiple of the 2 processes"),
        ({"batch_size": 8, "cutout": 9}, "cutout=9"),
    ],
)
def test_bad_sizes_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Batches(coded_images(), seed=0, **arguments)


def test_evaluation_gives_each_test_image_once_unchanged() -> None:
    images = coded_images()
    batches = list(evaluation_batches(images, batch_size=4))
    assert [len(batch.labels) for batch in batches] == [4, 2]
    pixels = torch.cat([to_bytes(images, batch.images) for batch in batches])
    assert torch.equal(pixels, images.test_images.long())
    halves = [
        torch.cat(
            [batch.labels for batch in evaluation_batches(images, batch_size=2, rank=r, world=2)]
        )
        for r in (0, 1)
    ]
    assert sorted(torch.cat(halves).tolist()) == sorted(images.test_labels.tolist())


def test_a_smaller_last_batch_is_kept_where_asked_for() -> None:
    images = coded_images()
    whole = SearchBatches(images, batch_size=9, seed=0)
    kept = SearchBatches(images, batch_size=9, seed=0, keep_last=True)
    half = len(images.train_images) // 2
    sizes = [[len(batch.labels) for batch in pair] for pair in kept.epoch()]
    assert sizes[:-1] == [[9, 9]] * (half // 9)
    assert sizes[-1] == [half % 9] * 2
    assert (whole.steps, kept.steps) == (half // 9, half // 9 + 1)
    assert (whole.drawn, kept.drawn) == (half // 9 * 9, half)


def test_replacement_draws_the_arch_half_alone_by_chance() -> None:
    images = coded_images()
    batches = SearchBatches(images, batch_size=8, seed=0, replacement=True)
    orders = [half._draw()["order"] for half in (batches.weights, batches.arch)]
    assert len(orders[0].unique()) == batches.drawn
    assert len(orders[1].unique()) < batches.drawn
    assert int(orders[1].max()) < len(images.train_images) // 2


def test_a_last_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(
        UserError, match="last batch has 3 images, which must be a multiple of the 2"
    ):
        Batches(coded_images(), batch_size=8, seed=0, drawn=19, world=2)
