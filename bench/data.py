"""Time of an augmented training batch: bytes on the device against a DataLoader.

``python -m bench.data [--device cpu|cuda]`` prints a table, writes
``bench/results/data-DEVICE.json`` and draws it beside. The DataLoader runs torchvision's usual
CIFAR transforms (crop with padding 4, mirror, to tensor, normalise), without and with workers that
live on between epochs.
All variants draw from the same 5,120 random images of 3x32x32 and take turns, an epoch each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.timing import alternate, device_and_target, machine, option_parser, timer, write_json
from darts.data import Batches, ImageSet

COUNT = 5120
BATCHES = (64, 256)
WORKERS = (0, 2)


def random_images() -> ImageSet:
    """A set in the size of CIFAR's images."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (COUNT, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.randint(10, (COUNT,), generator=generator)
    return ImageSet("random", pixels, labels, pixels[:1], labels[:1])


class Transformed(Dataset[tuple[Tensor, int]]):
    """The same images as torchvision's sets give them: PIL, then transforms."""

    def __init__(self, images: ImageSet) -> None:
        from torchvision import transforms as T

        mean, deviation = images.normalization()
        self.pixels = images.train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.train_labels.tolist()
        self.transform = T.Compose(
            [
                T.ToPILImage(),
                T.RandomCrop(32, padding=4),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize(mean.tolist(), deviation.tolist()),
            ]
        )

    def __len__(self) -> int:
        """Images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One augmented image and its label."""
        return self.transform(self.pixels[index]), self.labels[index]


def variants(size: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """Name and function that goes through one epoch of full batches of `size`."""
    images = random_images()
    in_memory = Batches(images, batch_size=size, seed=0, device=device)

    def on_device() -> None:
        for _ in in_memory.epoch():
            pass

    def through(loader: DataLoader[Any]) -> Callable[[], None]:
        def epoch() -> None:
            for pixels, labels in loader:
                pixels.to(device, non_blocking=True)
                labels.to(device, non_blocking=True)

        return epoch

    found = {"in memory": on_device}
    for workers in WORKERS:
        loader = DataLoader(
            Transformed(images),
            batch_size=size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        found[f"DataLoader, {workers} workers"] = through(loader)
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the milliseconds of every variant and batch size."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
    names = [f"{row['variant']}, batch {row['batch']}" for row in rows]
    colours = ["#4c72b0" if row["variant"] == "in memory" else "#8c8c8c" for row in rows]
    bars = axes.barh(names, [row["milliseconds"] for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.set_xlabel("ms for an augmented batch of 3x32x32 images")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure every batch size, print the table, write JSON."""
    options = option_parser("data", __doc__, runs=5).parse_args()
    device, target = device_and_target(options)
    rows: list[dict[str, Any]] = []
    print(f"{'batch':>5}  {'variant':24}{'ms a batch':>12}{'ratio':>8}")
    for size in BATCHES:
        functions = variants(size, device)
        seconds = alternate(list(functions.values()), options.runs, timer(device))
        for name, epoch in zip(functions, seconds, strict=True):
            milliseconds = 1e3 * epoch / (COUNT // size)
            ratio = epoch / seconds[0]
            rows.append({"batch": size, "variant": name, "milliseconds": milliseconds})
            print(f"{size:5}  {name:24}{milliseconds:12.3f}{ratio:8.1f}")
    write_json(target, {**machine(device), "images": COUNT, "rows": rows})
    plot(rows, options.plot or target.with_suffix(".png"))
    print(target)


if __name__ == "__main__":
    main()
